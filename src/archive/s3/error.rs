//! What an answer of the server means for the caller.

use super::S3Store;
use crate::archive::store::StoreError;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};

/// How a call failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// 412: the name is taken.
    Taken,
    /// 404 of an object or version.
    NotFound,
    /// The call may have been carried out, or not.
    Unknown(StoreError),
    /// It was not carried out.
    No(StoreError),
    /// The server says that we may not: a policy, or a lock.
    Denied(StoreError),
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Unknown(error) | Failure::No(error) | Failure::Denied(error) => error,
            Failure::Taken => Self::Retry {
                reason: "conflict",
                message: "the store says that a name is taken where none was asked for".to_owned(),
            },
            Failure::NotFound => Self::Refused {
                message: "an object is gone from the store while it was read".to_owned(),
            },
        }
    }
}

impl S3Store {
    /// Sorts an error by what can be done about it.
    pub(super) fn failed<E>(
        &self,
        verb: &str,
        key: &str,
        error: &SdkError<E, HttpResponse>,
    ) -> Failure
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        let retry = |reason, detail: String| StoreError::Retry {
            reason,
            message: format!("{verb} {key} in {}: {detail}", self.place),
        };
        match error {
            SdkError::TimeoutError(_) => {
                Failure::Unknown(retry("timeout", "no answer in time".to_owned()))
            }
            SdkError::DispatchFailure(dispatch) => {
                let text = deepest(error);
                if dispatch.is_timeout() {
                    return Failure::Unknown(retry("timeout", text));
                }
                if text.to_lowercase().contains("credential") {
                    return Failure::No(retry("credentials", no_credentials(&text)));
                }
                Failure::Unknown(retry("connection", text))
            }
            SdkError::ResponseError(_) => Failure::Unknown(retry("server_error", deepest(error))),
            SdkError::ServiceError(service) => {
                let status = service.raw().status().as_u16();
                let code = service.err().code().unwrap_or_default().to_owned();
                let text = service.err().message().unwrap_or_default().to_owned();
                self.answered(verb, key, status, &code, &text)
            }
            _ => {
                let text = deepest(error);
                if text.to_lowercase().contains("credential") {
                    return Failure::No(retry("credentials", no_credentials(&text)));
                }
                Failure::No(StoreError::Refused {
                    message: format!("{verb} {key} in {}: {text}", self.place),
                })
            }
        }
    }

    /// The server answered, and not with success.
    fn answered(&self, verb: &str, key: &str, status: u16, code: &str, text: &str) -> Failure {
        let said = format!("{verb} {key} in {}: {status} {code} {text}", self.place);
        let refused = |remedy: &str| StoreError::Refused { message: format!("{said}; {remedy}") };
        let retry = |reason| StoreError::Retry { reason, message: said.trim_end().to_owned() };
        match (status, code) {
            (412, _) => Failure::Taken,
            (_, "NoSuchBucket") => Failure::No(refused(
                "make the bucket, with Object Lock and versioning, or correct archive.bucket",
            )),
            (404, _) => Failure::NotFound,
            (409, _) => Failure::No(retry("conflict")),
            (_, "RequestTimeTooSkewed") => Failure::No(retry("clock")),
            (_, "ExpiredToken" | "TokenRefreshRequired") => Failure::No(retry("credentials")),
            (
                _,
                "BadDigest"
                | "XAmzContentSHA256Mismatch"
                | "XAmzContentChecksumMismatch"
                | "RequestTimeout"
                | "IncompleteBody",
            ) => Failure::Unknown(retry("server_error")),
            (_, "SlowDown" | "ServiceUnavailable") | (429, _) => Failure::No(retry("slow_down")),
            (507, _) | (_, "XMinioStorageFull" | "InsufficientCapacity") => {
                Failure::No(retry("full"))
            }
            (500.., _) => Failure::Unknown(retry("server_error")),
            (301, _) | (_, "AuthorizationHeaderMalformed") => {
                Failure::No(refused("correct archive.region"))
            }
            (_, "InvalidAccessKeyId" | "SignatureDoesNotMatch") => {
                Failure::Denied(refused("correct the access key and its secret"))
            }
            (401 | 403, _) => Failure::Denied(refused(
                "grant s3:PutObject, PutObjectRetention, GetObject, GetObjectVersion, GetObjectRetention, \
                 ListBucketVersions, GetBucketObjectLockConfiguration and GetBucketVersioning",
            )),
            _ => Failure::No(refused("the server does not accept what S3 servers accept")),
        }
    }
}

fn no_credentials(text: &str) -> String {
    format!(
        "no credentials ({text}); set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or give the host a role"
    )
}

fn deepest<E>(error: &SdkError<E, HttpResponse>) -> String
where
    E: std::error::Error + Send + Sync + 'static,
{
    DisplayErrorContext(error).to_string()
}
