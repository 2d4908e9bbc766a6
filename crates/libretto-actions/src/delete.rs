//! Deletes an object; with a uid, only that incarnation of it.

use kube::api::{DeleteParams, Preconditions};
use libretto_api::{
    intent::{Failure, Outcome},
    object::ObjectRef,
};

use crate::{DONE, kube::Kube};

pub(crate) async fn delete(
    kube: &Kube,
    object: &ObjectRef,
    uid: Option<&str>,
) -> Result<Outcome, Failure> {
    // Background, as kubectl does: the object's own dependents are the garbage collector's.
    let mut params = DeleteParams::background();
    if let Some(uid) = uid {
        params = params.preconditions(Preconditions {
            uid: Some(uid.to_owned()),
            resource_version: None,
        });
    }
    match kube.delete(object, &params).await {
        // Held by finalizers or a grace period: the object as it is now. A `Status` instead means that it is gone.
        Ok(answer) if answer["metadata"]["deletionTimestamp"].is_string() => Ok(Outcome::Done {
            object: Some(answer),
        }),
        Ok(_) => Ok(DONE),
        Err(error) if error.code() == Some(404) => Ok(Outcome::Absent),
        // The only precondition sent is the uid: that incarnation is gone, another one has its name.
        Err(error) if error.code() == Some(409) && uid.is_some() => Ok(Outcome::Absent),
        Err(error) => Err(error.failure(&format!("delete {object}"))),
    }
}
