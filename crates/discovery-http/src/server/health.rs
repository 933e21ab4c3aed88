//! Whether the service is alive, and whether it knows what is not there.

use std::sync::Arc;

use axum::{Json, extract::State};

use super::{app::App, problem::Refusal};
use crate::wire::{self, Health};

pub(super) async fn alive(State(app): State<Arc<App>>) -> Json<Health> {
    Json(health(&app))
}

pub(super) async fn ready(State(app): State<Arc<App>>) -> Result<Json<Health>, Refusal> {
    app.warm_up.check()?;
    Ok(Json(health(&app)))
}

fn health(app: &App) -> Health {
    Health {
        service: wire::SERVICE.to_owned(),
        api: wire::API.to_owned(),
        epoch: format!("{:x}", app.epoch),
        watches: app.watches.count(),
    }
}
