"""The project's own settings, one file for each data set. Installed as `pvdm_jax.configs`."""
