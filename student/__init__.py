"""The feed-forward student: model, data, losses, training, evaluation and use."""
