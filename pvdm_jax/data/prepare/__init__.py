"""`pvdm prepare`: folders of videos become TFDS datasets."""
