"""The error that a training ends with where a sentence helps more than a trace."""


class TrainingError(ValueError):
    """The training cannot go on; the message says what to change."""
