"""Every loss of stage 1 (paper section 3.1), one to a file; `reconstruction.py` and `generator.py` add them up."""
