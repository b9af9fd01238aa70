//! A request to the API whose sender has been let in: one who looks, with the parameters of the URL, or one who acts,
//! with a body.
//! Each handler of `dashboard` takes one of these, so that none forgets to ask for a token.

use std::net::IpAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::FromRequest;
use axum::http::Request;
use axum::http::StatusCode;
use serde::de::DeserializeOwned;

use crate::dashboard::Dashboard;
use crate::dashboard::access::Actor;
use crate::dashboard::answer;
use crate::dashboard::answer::Failure;
use crate::dashboard::tokens::Role;
use crate::http::Client;

/// A request of one who may look.
pub(super) struct View<Q> {
    pub(super) dashboard: Arc<Dashboard>,
    pub(super) role: Role,
    pub(super) address: IpAddr,
    pub(super) query: Q,
}

/// A request of one who may act.
pub(super) struct Action<B> {
    pub(super) dashboard: Arc<Dashboard>,
    pub(super) actor: Actor,
    pub(super) body: B,
}

impl<Q: DeserializeOwned> FromRequest<Arc<Dashboard>> for View<Q> {
    type Rejection = Failure;

    async fn from_request(request: Request<Body>, dashboard: &Arc<Dashboard>) -> Result<Self, Failure> {
        let client = client(&request)?;
        let role = dashboard.authorize(&client, &request)?;
        let query = answer::parameters(&request)?;
        let address = dashboard.api.client_address(&client, request.headers());
        Ok(Self { dashboard: Arc::clone(dashboard), role, address, query })
    }
}

impl<B: DeserializeOwned> FromRequest<Arc<Dashboard>> for Action<B> {
    type Rejection = Failure;

    async fn from_request(request: Request<Body>, dashboard: &Arc<Dashboard>) -> Result<Self, Failure> {
        let client = client(&request)?;
        let actor = dashboard.authorize_operator(&client, &request)?;
        let body = answer::read(request).await?;
        Ok(Self { dashboard: Arc::clone(dashboard), actor, body })
    }
}

/// The sender, whom the server adds to each request.
fn client(request: &Request<Body>) -> Result<Client, Failure> {
    let client = request.extensions().get::<Client>().cloned();
    client.ok_or_else(|| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "The sender is not known."))
}
