"""A trained model at work: encoding, sampling, decoding."""
