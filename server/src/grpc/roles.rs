//! Who may call what: one layer around all services, before any of them sees the call.
//!
//! Built by `app`. The role that a call needs is the method's own option in the `.proto` files, read
//! from the descriptors at the start: a method of ours that says none stops the server from
//! starting. The caller goes into the request's extensions and into the log span. As long as only
//! loopback is served, every caller is an administrator.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use goldleaf_proto::v1 as api;
use http::{Request, Response};
use prost_reflect::{DescriptorPool, ExtensionDescriptor, MethodDescriptor, Value};
use tower::{Layer, Service};

use super::status::{self, NotAllowed};
use crate::domain::{Caller, Role};

/// The packages whose calls say what role they need.
const OURS: &str = "/goldleaf.";

/// The role that each call needs, by its path.
type Needed = HashMap<String, Role>;

/// Why the roles cannot be read from the descriptors.
#[derive(Debug, thiserror::Error)]
pub enum BadRoles {
    /// They do not decode, or lack the option itself.
    #[error("the API's descriptors cannot be read: {0}")]
    Descriptors(String),
    /// A method says nothing, or nothing known.
    #[error("{0} does not say which role it needs")]
    Unsaid(String),
}

/// Lets pass who may, and refuses the others.
#[derive(Clone, Debug)]
pub struct Roles {
    caller: Caller,
    needed: Arc<Needed>,
}

impl Roles {
    /// Every caller is of this role.
    ///
    /// # Errors
    ///
    /// [`BadRoles`] when a call of ours does not say what it needs.
    pub fn everybody_is(role: Role) -> Result<Self, BadRoles> {
        Ok(Self {
            caller: Caller { role },
            needed: Arc::new(needed(goldleaf_proto::FILE_DESCRIPTOR_SET)?),
        })
    }

    /// Whether the caller may call this path.
    fn check(&self, path: &str) -> Result<(), NotAllowed> {
        let has = self.caller.role;
        match self.needed.get(path) {
            Some(needs) if has.may(*needs) => Ok(()),
            Some(needs) => Err(NotAllowed {
                path: path.to_owned(),
                has,
                needs: *needs,
            }),
            // Health and reflection are for everybody. A path of ours that is no call of ours ends
            // as UNIMPLEMENTED, but not for want of looking: nothing unlisted passes with a role.
            None if !path.starts_with(OURS) || has == Role::Admin => Ok(()),
            None => Err(NotAllowed {
                path: path.to_owned(),
                has,
                needs: Role::Admin,
            }),
        }
    }
}

fn needed(descriptors: &[u8]) -> Result<Needed, BadRoles> {
    let pool =
        DescriptorPool::decode(descriptors).map_err(|e| BadRoles::Descriptors(e.to_string()))?;
    let option = pool
        .get_extension_by_name("goldleaf.v1.required_role")
        .ok_or_else(|| BadRoles::Descriptors("goldleaf.v1.required_role is missing".into()))?;
    let ours = |path: &String| path.starts_with(OURS);
    pool.services()
        .flat_map(|service| service.methods().collect::<Vec<_>>())
        .map(|method| (path(&method), method))
        .filter(|(path, _)| ours(path))
        .map(|(path, method)| match role_of(&method, &option) {
            Some(role) => Ok((path, role)),
            None => Err(BadRoles::Unsaid(path)),
        })
        .collect()
}

fn path(method: &MethodDescriptor) -> String {
    format!("/{}/{}", method.parent_service().full_name(), method.name())
}

fn role_of(method: &MethodDescriptor, option: &ExtensionDescriptor) -> Option<Role> {
    let options = method.options();
    let value = options.get_extension(option);
    let Value::EnumNumber(number) = value.as_ref() else {
        return None;
    };
    match api::Role::try_from(*number).ok()? {
        api::Role::Unspecified => None,
        api::Role::Viewer => Some(Role::Viewer),
        api::Role::User => Some(Role::User),
        api::Role::Admin => Some(Role::Admin),
        api::Role::Node => Some(Role::Node),
    }
}

impl<S> Layer<S> for Roles {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded {
            inner,
            roles: self.clone(),
        }
    }
}

/// A service behind [`Roles`].
#[derive(Clone, Debug)]
pub struct Guarded<S> {
    inner: S,
    roles: Roles,
}

impl<S, B, A> Service<Request<B>> for Guarded<S>
where
    S: Service<Request<B>, Response = Response<A>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    A: Default + Send + 'static,
{
    type Response = Response<A>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<A>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        tracing::Span::current().record("role", tracing::field::display(self.roles.caller.role));
        match self.roles.check(request.uri().path()) {
            Ok(()) => {
                request.extensions_mut().insert(self.roles.caller);
                Box::pin(self.inner.call(request))
            }
            Err(refusal) => {
                let answer = status::not_allowed(refusal).into_http();
                Box::pin(async move { Ok(answer) })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_of_both_packages_says_what_role_it_needs() {
        let needed = needed(goldleaf_proto::FILE_DESCRIPTOR_SET).unwrap();
        let count = |package: &str| needed.keys().filter(|p| p.starts_with(package)).count();
        assert!(count("/goldleaf.v1.") >= 30, "{needed:?}");
        assert!(count("/goldleaf.agent.v1.") >= 20, "{needed:?}");
        for (path, role) in [
            ("/goldleaf.v1.VolumeService/List", Role::Viewer),
            ("/goldleaf.v1.VolumeService/CreateThin", Role::User),
            ("/goldleaf.v1.PoolService/Create", Role::Admin),
            ("/goldleaf.v1.NodeService/Register", Role::Node),
        ] {
            assert_eq!(needed.get(path), Some(&role), "{path}");
        }
        for (path, role) in &needed {
            let call = path.rsplit('/').next().unwrap();
            let looks = ["Get", "List", "Watch"].iter().any(|w| call.starts_with(w));
            assert!(!looks || *role == Role::Viewer, "{path} only looks");
            let changes = ["Create", "Delete", "Update"]
                .iter()
                .any(|w| call.starts_with(w));
            assert!(
                !changes || *role != Role::Viewer,
                "{path} changes something"
            );
        }
    }

    #[test]
    fn a_call_that_says_nothing_stops_the_server_from_starting() {
        use prost::Message;
        // Decoding the plain way drops the options that it does not know: ours.
        let plain =
            prost_types::FileDescriptorSet::decode(goldleaf_proto::FILE_DESCRIPTOR_SET).unwrap();
        let error = needed(&plain.encode_to_vec()).unwrap_err();
        assert!(matches!(error, BadRoles::Unsaid(_)), "{error}");
    }

    #[test]
    fn what_is_not_ours_is_for_everybody_and_what_is_unknown_of_ours_for_nobody() {
        let roles = Roles::everybody_is(Role::User).unwrap();
        assert!(roles.check("/grpc.health.v1.Health/Check").is_ok());
        assert!(roles.check("/goldleaf.v1.VolumeService/Explode").is_err());
        let refused = roles.check("/goldleaf.v1.PoolService/Create").unwrap_err();
        assert_eq!((refused.has, refused.needs), (Role::User, Role::Admin));
    }
}
