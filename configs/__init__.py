"""Configurations, one file per dataset. Installed as `pvdm_jax.configs`."""
