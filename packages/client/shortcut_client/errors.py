"""What a control loop has to expect."""


class ClientError(RuntimeError):
    """No action came. The message is one sentence."""


class RequestRefused(ClientError):
    """The server did not take the observation or the key; asking again changes nothing."""


class ServerUnavailable(ClientError):
    """The server could not be reached, or did not answer in time."""
