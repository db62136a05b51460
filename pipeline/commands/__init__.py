"""The commands of ``distillnerf``, one module for each group of them."""
