"""Errors of S3 as one sentence that names the object and the remedy and never holds a secret."""

from botocore import exceptions as aws
from botocore.parsers import ResponseParserError

from cluster.errors import ClusterError, NotFoundError, StorageUnavailableError
from cluster.storage.uris import bucket_of

BAD_KEY_CODES = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "UnrecognizedClientException"}
EXPIRED_CODES = {"ExpiredToken", "ExpiredTokenException", "InvalidToken", "TokenRefreshRequired"}
TRANSIENT_CODES = {  # error codes with an HTTP status below 500
    "BadDigest",
    "ConditionalRequestConflict",
    "IncompleteBody",
    "OperationAborted",
    "RequestTimeout",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
    "XAmzContentSHA256Mismatch",
}


class MeaninglessAnswerError(aws.BotoCoreError):  # type: ignore[misc]  # boto3 has no types
    """boto3 raised ValueError because of a malformed response."""

    fmt = "malformed response: {error}"


SERVER_ERRORS = (aws.ClientError, aws.BotoCoreError, ResponseParserError)
LATE = (aws.ReadTimeoutError, aws.ConnectTimeoutError)
# The response was cut off or damaged in transit.
BROKEN = (
    aws.ResponseStreamingError,
    aws.IncompleteReadError,
    aws.ConnectionClosedError,
    aws.FlexibleChecksumError,
    ResponseParserError,
    MeaninglessAnswerError,
)
CREDENTIALS_HELP = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_PROFILE, or give this machine a role)"


def code_of(error: aws.ClientError) -> str:
    """The error code of S3, such as `NoSuchKey`."""
    return str(error.response.get("Error", {}).get("Code", ""))


def status_of(error: aws.ClientError) -> int:
    """The HTTP status of the response."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def is_transient(error: Exception) -> bool:
    """Whether the same request may succeed if it is retried."""
    if isinstance(error, aws.ClientError):
        status = status_of(error)
        return (status >= 500 and status != 501) or status == 429 or code_of(error) in TRANSIENT_CODES
    if isinstance(error, aws.SSLError):
        return "CERTIFICATE_VERIFY_FAILED" not in str(error)
    return isinstance(error, (aws.HTTPClientError, aws.ConnectionError, *BROKEN))


def s3_error(uri: str, error: Exception, tried: str = "", server: str = "") -> ClusterError:
    """The error to raise for an error of boto3 about `uri`; it says how often the request was `tried` and which
    `server` it went to."""
    if isinstance(error, aws.ClientError):
        return _refused(uri, error, tried)
    if isinstance(
        error, aws.NoCredentialsError | aws.PartialCredentialsError | aws.CredentialRetrievalError | aws.ProfileNotFound
    ):
        return ClusterError(f"{uri}: no usable S3 credentials were found; {CREDENTIALS_HELP}")
    if isinstance(error, aws.SSLError) and not is_transient(error):
        return ClusterError(
            f"{uri}: the S3 server's certificate is not trusted; set AWS_CA_BUNDLE to the file of its authority"
        )
    if is_transient(error):
        kind = (
            "did not answer in time"
            if isinstance(error, LATE)
            else "cut off its responses"
            if isinstance(error, BROKEN)
            else "cannot be reached"
        )
        why = ", ".join(part for part in (type(error).__name__, tried) if part)
        return StorageUnavailableError(
            f"{uri}: the S3 server{server and f' {server}'} {kind} ({why}); check the network and AWS_ENDPOINT_URL, "
            "then run again"
        )
    if isinstance(error, aws.ParamValidationError):
        return ClusterError(
            f"{uri}: not a valid S3 address; bucket names have 3 to 63 lower-case letters, digits, dots and hyphens"
        )
    return ClusterError(f"{uri}: S3 cannot be used ({type(error).__name__}); check the AWS_* variables")


def _refused(uri: str, error: aws.ClientError, tried: str) -> ClusterError:
    """The error to raise for an error response of the S3 server."""
    code, status = code_of(error), status_of(error)
    if code == "NoSuchBucket":
        return ClusterError(f"{uri}: there is no bucket '{bucket_of(uri)}'; create it first, or correct the name")
    if code in ("NoSuchKey", "404", "NotFound"):
        return NotFoundError(f"{uri} does not exist; check the address")
    if code in BAD_KEY_CODES:
        return ClusterError(f"{uri}: the S3 server does not accept these credentials ({code}); {CREDENTIALS_HELP}")
    if code in EXPIRED_CODES:
        return ClusterError(f"{uri}: the S3 credentials have expired ({code}); renew them and run again")
    if code in ("RequestTimeTooSkewed", "RequestExpired"):
        return ClusterError(
            f"{uri}: the S3 server rejected the request: the clock of this machine is wrong ({code}); set the clock "
            "and run again"
        )
    if status == 403:
        return ClusterError(
            f"{uri}: access denied; check the credentials and that they may list, read, write and delete in "
            f"'{bucket_of(uri)}'"
        )
    if (
        code in ("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException")
        or status == 301
    ):
        return ClusterError(f"{uri}: bucket '{bucket_of(uri)}' is in another region; set AWS_REGION to it")
    if code == "InvalidBucketName":
        return ClusterError(f"{uri}: '{bucket_of(uri)}' is not a valid bucket name; correct it")
    if is_transient(error):
        why = f" ({tried})" if tried else ""
        return StorageUnavailableError(
            f"{uri}: the S3 server kept answering {code or status}{why}; wait a little, then run again"
        )
    return ClusterError(
        f"{uri}: the S3 server refused the request ({code or status}); check the address and the permissions"
    )
