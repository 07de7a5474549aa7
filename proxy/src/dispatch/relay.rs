//! What arrives on a backend's socket: to the sockets of its owner, and as hints to the task that carries the attempt. Pictures that are results go to that task alone.

use super::attempt::Signal;
use super::backend::Backend;
use crate::deliver::events::codec::{PackEvent, ProgressKind, UpstreamEvent};
use crate::deliver::events::upstream::UpstreamSocket;
use crate::services::Services;
use serde_json::Value;
use std::sync::Arc;

/// Hands one event on. What belongs to no attempt of ours reaches nobody.
///
/// SECURITY: `backend` is whose socket it came by, never the one that has its name now: one that leaves finishes its jobs, and its name may be an owner's by then.
pub fn relay(services: &Services, backend: &Backend, event: UpstreamEvent) {
    let tracks = &services.tracks;
    if let UpstreamEvent::QueueChanged { remaining } = &event {
        // What is there beside ours was submitted behind our back, and counts as load.
        backend.set_foreign(remaining.saturating_sub(tracks.at(&backend.id)));
    }
    let event = match event {
        UpstreamEvent::Pack(event) => return relay_pack(services, backend, event),
        event => event,
    };
    let track = match event.prompt() {
        Some(prompt) => {
            match &event {
                UpstreamEvent::Started { .. } => tracks.set_running(&backend.id, Some(prompt)),
                UpstreamEvent::Ended { .. } => tracks.set_running(&backend.id, None),
                _ => {}
            }
            tracks.of(prompt)
        }
        // A plain preview or a progress text belongs to whatever runs there now (facts §6.4).
        None => match &event {
            UpstreamEvent::Preview(_) | UpstreamEvent::Text(_) | UpstreamEvent::TooLong { .. } => {
                tracks.running_at(&backend.id)
            }
            _ => None,
        },
    };
    let Some(track) = track else { return };
    track.heard(matches!(event, UpstreamEvent::Started { .. }));
    // This is called by the task that reads the socket: the connection is the one that the event came by.
    let connection = backend.socket().map_or(0, UpstreamSocket::connections);
    match &event {
        UpstreamEvent::Started { .. } => {
            track.began(connection);
            track.signal(Signal::Started);
        }
        UpstreamEvent::Ended { .. } => {
            track.ended(connection);
            track.signal(Signal::Ended);
        }
        UpstreamEvent::Preview(preview) if track.take_picture(preview) => {
            services.metrics.event("picture");
            return;
        }
        UpstreamEvent::TooLong { bytes } => track.missed(*bytes),
        UpstreamEvent::Progress { kind: ProgressKind::Executing, data, .. } => {
            track.executes(data.get("node").and_then(Value::as_str));
            let node = data.get("display_node").or_else(|| data.get("node")).and_then(Value::as_str);
            services.hub.set_executing(&track.route, &track.prompt_id, node.map(str::to_owned));
        }
        _ => {}
    }
    if matches!(event, UpstreamEvent::Started { .. }) && track.start_told {
        return;
    }
    let kind = event.kind();
    if let Some(event) = event.for_owner(&track.prompt_id) {
        services.metrics.event(kind);
        services.hub.publish(&track.route, &event.without(&track.secrets));
    }
}

/// What a node pack sends reaches the tenant whose own installation it is, and nobody else. With a prompt id, the sockets of that prompt's owner.
fn relay_pack(services: &Services, backend: &Backend, event: PackEvent) {
    if !backend.is_owned() {
        return;
    }
    let tenants = services.tenants();
    let Some(tenant) = tenants.owner_of(&backend.pool) else { return };
    services.metrics.event("pack");
    let of = |prompt| services.tracks.of(prompt).map(|track| (prompt, track));
    match event.prompt().map(of) {
        Some(Some((prompt, track))) => {
            let event = event.for_people(Some((prompt, &track.prompt_id)));
            services.hub.publish(&track.route, &event.without(&track.secrets));
        }
        // It names a prompt that is not followed (any more): whose it is can't be told.
        Some(None) => {}
        None => {
            let running = services.tracks.running_prompt_at(&backend.id).and_then(of);
            let secrets = running.as_ref().map(|(_, track)| Arc::clone(&track.secrets)).unwrap_or_default();
            let running = running.as_ref().map(|(prompt, track)| (*prompt, &track.prompt_id));
            services.hub.publish_to_tenant(&tenant.id, &event.for_people(running).without(&secrets));
        }
    }
}
