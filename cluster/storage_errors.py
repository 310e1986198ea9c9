"""What went wrong with a file or an object, as one sentence that names it and says what to do; never with a secret in it."""

import errno
import re

from boto3.exceptions import Boto3Error
from botocore import exceptions as aws

from cluster.errors import ClusterError

CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f]")
BAD_KEY_CODES = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "UnrecognizedClientException"}
EXPIRED_CODES = {"ExpiredToken", "ExpiredTokenException", "InvalidToken", "TokenRefreshRequired", "RequestExpired"}
BUSY_CODES = {"SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "500", "502", "503", "504"}
CONNECTION_ERRORS = (aws.HTTPClientError, aws.ConnectionError, aws.ResponseStreamingError, aws.IncompleteReadError)
CREDENTIALS_HELP = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_PROFILE, or give this machine a role)"


def bucket_of(uri: str) -> str:
    """The bucket of an s3:// URI."""
    return uri[len("s3://") :].partition("/")[0]


def s3_error(uri: str, error: aws.ClientError | aws.BotoCoreError | Boto3Error) -> ClusterError:
    """The sentence for an error of boto3 about `uri`."""
    if isinstance(error, Boto3Error):  # a transfer wraps the first cause
        cause = error.__cause__ or error.__context__
        if isinstance(cause, aws.ClientError | aws.BotoCoreError):
            return s3_error(uri, cause)
        return ClusterError(f"{uri}: the transfer failed ({type(error).__name__}); try again")
    if isinstance(error, aws.ClientError):
        return _refused(uri, error)
    if isinstance(error, aws.NoCredentialsError | aws.PartialCredentialsError | aws.CredentialRetrievalError | aws.ProfileNotFound):
        return ClusterError(f"{uri}: no usable S3 credentials were found; {CREDENTIALS_HELP}")
    if isinstance(error, aws.SSLError):
        return ClusterError(f"{uri}: the S3 server's certificate is not trusted; set AWS_CA_BUNDLE to the file of its authority")
    if isinstance(error, CONNECTION_ERRORS):
        kind = "did not answer in time" if isinstance(error, aws.ReadTimeoutError | aws.ConnectTimeoutError) else "cannot be reached"
        return ClusterError(f"{uri}: the S3 server {kind} ({type(error).__name__}); check the network and AWS_ENDPOINT_URL, then run again")
    if isinstance(error, aws.ParamValidationError):
        return ClusterError(f"{uri}: not a valid S3 address; bucket names have 3 to 63 lower-case letters, digits, dots and hyphens")
    return ClusterError(f"{uri}: S3 cannot be used ({type(error).__name__}); check the AWS_* variables")


def _refused(uri: str, error: aws.ClientError) -> ClusterError:
    """The sentence for an answer of the S3 server that is an error."""
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code == "NoSuchBucket":
        return ClusterError(f"{uri}: there is no bucket '{bucket_of(uri)}'; create it first, or correct the name")
    if code in ("NoSuchKey", "404", "NotFound"):
        return ClusterError(f"{uri} does not exist; check the address")
    if code in BAD_KEY_CODES:
        return ClusterError(f"{uri}: the S3 server does not accept these credentials ({code}); {CREDENTIALS_HELP}")
    if code in EXPIRED_CODES:
        return ClusterError(f"{uri}: the S3 credentials have expired ({code}); renew them and run again")
    if status == 403:
        return ClusterError(f"{uri}: access denied; check the credentials and that they may list, read, write and delete in '{bucket_of(uri)}'")
    if code in ("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException") or status == 301:
        return ClusterError(f"{uri}: bucket '{bucket_of(uri)}' is in another region; set AWS_REGION to it")
    if code == "InvalidBucketName":
        return ClusterError(f"{uri}: '{bucket_of(uri)}' is not a valid bucket name; correct it")
    if code in BUSY_CODES or status >= 500:
        return ClusterError(f"{uri}: the S3 server kept answering {code or status} after several attempts; wait a little, then run again")
    return ClusterError(f"{uri}: the S3 server refused the request ({code or status}); check the address and the permissions")


def file_error(uri: str, error: OSError) -> ClusterError:
    """The sentence for an error of the operating system about `uri`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return ClusterError(f"{uri}: the disk is full ({error.strerror}); free some space or choose another place")
    if error.errno == errno.EROFS:
        return ClusterError(f"{uri}: the disk is read-only; choose another place")
    if error.errno in (errno.EACCES, errno.EPERM):
        return ClusterError(f"{uri}: permission denied; change the permissions or choose another place")
    if error.errno == errno.ENOENT:
        return ClusterError(f"{uri} does not exist; check the path")
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return ClusterError(f"{uri}: a file stands where a folder is needed; remove it or choose another place")
    if error.errno == errno.EISDIR:
        return ClusterError(f"{uri} is a folder, not a file; check the path")
    return ClusterError(f"{uri}: {error.strerror or type(error).__name__}; check the path and the disk")
