"""What the models cost: measured on this machine, and predicted for other devices.

`runner.run` is `pvdm benchmark`. It needs only jax, flax, optax, orbax, einops and numpy; its operation `data` also
needs the data libraries. `plan.plan` is `pvdm plan`.
"""
