"""The error that ends a command with one line."""


class CommandError(Exception):
    """A command cannot go on; the message is one line that says what is wrong and what to do about it.

    `exit_code` is what the command then returns to its shell.
    """

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code
