//! Asks one ComfyUI: what it says of itself, and what answers there that should not.

use super::findings::{Looked, Reached};
use crate::dispatch::comfyui::ComfyUi;
use crate::dispatch::facts::BackendFacts;
use crate::endpoint::{Address, BackendEndpoint};
use http::StatusCode;
use serde_json::Value;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;
use tokio::net::TcpStream;

/// Routes that only ComfyUI-Manager has, of version 4 and of 3 and older (facts §1.6). Both only tell.
const MANAGER_ROUTES: [&str; 2] = ["/v2/manager/version", "/manager/version"];
/// How long a connection to one of this machine's own addresses may take.
const OWN_ADDRESS_TIMEOUT: Duration = Duration::from_secs(1);

/// What is there.
pub async fn look_at(endpoint: &BackendEndpoint) -> Looked {
    let comfyui = ComfyUi::new(endpoint.clone());
    let stats = match comfyui.system_stats().await {
        Ok(stats) => stats,
        Err(error) => return Looked { unreachable: Some(error.to_string()), ..Looked::default() },
    };
    let text = |pointer: &str| stats.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let argv = stats.pointer("/system/argv").and_then(Value::as_array).into_iter().flatten();
    let devices = stats.get("devices").and_then(Value::as_array).into_iter().flatten();
    let mut manager = false;
    for route in MANAGER_ROUTES {
        manager |= matches!(comfyui.answers(route).await, Ok(StatusCode::OK));
    }
    Looked {
        unreachable: None,
        version: text("/system/comfyui_version"),
        argv: argv.filter_map(Value::as_str).map(str::to_owned).collect(),
        devices: devices.filter_map(|device| device.get("name")?.as_str()).map(str::to_owned).collect(),
        manager_answers: manager,
        assets_answer: matches!(comfyui.answers("/api/assets?limit=1").await, Ok(StatusCode::OK)),
        reached: reached(endpoint).await,
        facts: Some(BackendFacts::read(&stats)),
    }
}

/// Whether it can be reached from elsewhere: a local one by one of this machine's other addresses.
async fn reached(endpoint: &BackendEndpoint) -> Reached {
    let Address::Tcp { port, .. } = endpoint.url().address() else { return Reached::LoopbackOnly };
    if !endpoint.url().is_local() {
        return Reached::Remote;
    }
    for own in own_addresses() {
        let connecting = TcpStream::connect(SocketAddr::new(own, *port));
        if let Ok(Ok(_)) = tokio::time::timeout(OWN_ADDRESS_TIMEOUT, connecting).await {
            return Reached::AlsoBy(own);
        }
    }
    Reached::LoopbackOnly
}

/// The addresses by which this machine reaches others, one for IPv4 and one for IPv6, where it has them. Nothing is sent: connecting a UDP socket only asks the routing table.
pub fn own_addresses() -> Vec<IpAddr> {
    // Addresses of documentation (RFC 5737, RFC 3849): on the default route of any machine, and nobody's.
    let probes: [(IpAddr, IpAddr); 2] = [
        (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::new(192, 0, 2, 1).into()),
        (Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into()),
    ];
    let own = |(from, to): (IpAddr, IpAddr)| {
        let socket = UdpSocket::bind((from, 0)).ok()?;
        socket.connect((to, 9)).ok()?;
        let own = socket.local_addr().ok()?.ip();
        (!own.is_loopback() && !own.is_unspecified()).then_some(own)
    };
    probes.into_iter().filter_map(own).collect()
}
