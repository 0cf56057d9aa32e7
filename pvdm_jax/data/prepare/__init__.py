"""TFDS builders: they write datasets that train without TensorFlow."""
