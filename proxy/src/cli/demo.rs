//! `comfygate demo`: the gateway over TLS, two simulated ComfyUI backends and two tenants, all in this process.
//!
//! It goes the way that any user's gateway goes: it writes a configuration, loads it, builds the same [`App`] and mints keys into its ledger. Only
//! the backends are stand-ins.

use super::Exit;
use crate::app::{self, App};
use crate::authenticate::api_key::ApiKey;
use crate::config::Config;
use crate::owner::{Owner, Scopes};
use anyhow::Context;
use clap::Args;
use comfygate_stand_in::{Options, StandIn};
use ring::rand::SystemRandom;
use serde_json::json;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// `comfygate demo …`
#[derive(Debug, Args)]
pub struct DemoArguments {
    /// Where to listen
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8443")]
    listen: SocketAddr,
    /// Where to serve metrics
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9901")]
    metrics: SocketAddr,
    /// Print one JSON line instead of text: url, metrics_url, ca_file, tenants, backends
    #[arg(long)]
    json: bool,
}

/// How often the own listener is tried until it is there.
const LISTEN_INTERVAL: Duration = Duration::from_millis(20);

const TENANTS: [&str; 2] = ["alice", "bob"];

/// A picture in under a second: no model is loaded, so the sampler's steps are simulated.
const WORKFLOW: &str = r#"{"1":{"class_type":"CheckpointLoaderSimple","inputs":{"ckpt_name":"sd_xl_base_1.0.safetensors"}},"2":{"class_type":"CLIPTextEncode","inputs":{"text":"a lighthouse","clip":["1",1]}},"3":{"class_type":"EmptyLatentImage","inputs":{"width":512,"height":512,"batch_size":1}},"4":{"class_type":"KSampler","inputs":{"model":["1",0],"positive":["2",0],"negative":["2",0],"latent_image":["3",0],"seed":7,"steps":8,"cfg":7.0,"sampler_name":"euler","scheduler":"normal","denoise":1.0}},"5":{"class_type":"VAEDecode","inputs":{"samples":["4",0],"vae":["1",2]}},"6":{"class_type":"SaveImage","inputs":{"images":["5",0],"filename_prefix":"lighthouse"}}}"#;

/// A directory that is removed with everything in it.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs until a signal says to stop.
///
/// # Errors
/// When a port is taken or the scratch directory can't be written.
pub fn run(arguments: &DemoArguments) -> anyhow::Result<Exit> {
    app::start_logging();
    // Nobody else can have made it before: a name that can't be guessed, made by us or not at all.
    let directory = std::env::temp_dir().join(format!("comfygate-demo-{}", uuid::Uuid::new_v4().simple()));
    let made = std::fs::DirBuilder::new().mode(0o700).create(&directory);
    made.with_context(|| format!("can't make the directory `{}`", directory.display()))?;
    let scratch = Scratch(directory);
    let runtime = app::core_runtime()?;
    let backends = runtime.block_on(async {
        anyhow::Ok([StandIn::start(Options::default()).await?, StandIn::start(Options::default()).await?])
    })?;
    let urls: Vec<String> = backends.iter().map(StandIn::url).collect();
    let config = configuration(&scratch.0, arguments, &urls)?;
    let app = App::build(config)?;
    let mut keys = Vec::new();
    for tenant in TENANTS {
        let key = ApiKey::mint(&SystemRandom::new())?;
        let owner = Owner { tenant: tenant.parse()?, user: None, key: None, shared: false };
        let row = key.row(owner, Scopes::of_a_client(), Some("demo".into()), app.services().clock.wall(), None);
        runtime.block_on(app.services().ledger.insert_key(row))?;
        keys.push((tenant, key.reveal()));
    }
    let url = format!("https://{}", arguments.listen);
    let ca_file = scratch.0.join("state/tls/ca.crt");
    let text = if arguments.json {
        let tenants: Vec<_> = keys.iter().map(|(id, key)| json!({"id": id, "key": key})).collect();
        let metrics_url = format!("http://{}/metrics", arguments.metrics);
        json!({"url": url, "metrics_url": metrics_url, "ca_file": ca_file, "tenants": tenants, "backends": urls})
            .to_string()
            + "\n"
    } else {
        told(&url, arguments, &ca_file, &keys, &urls)
    };
    // Told when it is true: whoever reads the line connects at once.
    let listen = arguments.listen;
    std::thread::spawn(move || {
        while std::net::TcpStream::connect(listen).is_err() {
            std::thread::sleep(LISTEN_INTERVAL);
        }
        print!("{text}");
    });
    app.run()?;
    drop(backends);
    Ok(Exit::Good)
}

fn configuration(directory: &Path, arguments: &DemoArguments, backends: &[String]) -> anyhow::Result<Config> {
    let (listen, metrics) = (arguments.listen, arguments.metrics);
    let mut gateway = format!(
        "public_url = \"https://{listen}\"\n[[listen]]\naddress = \"{listen}\"\n[metrics]\naddress = \"{metrics}\"\n[state]\ndir = {:?}\n[tenants]\nfile = {:?}\n[audit]\nfile = {:?}\n",
        directory.join("state"),
        directory.join("tenants.toml"),
        directory.join("audit.jsonl"),
    );
    for (n, url) in backends.iter().enumerate() {
        gateway.push_str(&format!("[[backends]]\nid = \"gpu{n}\"\nurl = \"{url}\"\n"));
    }
    let tenants = TENANTS.map(|tenant| format!("[[tenant]]\nid = \"{tenant}\"\nplan = \"default\"\n")).concat();
    std::fs::write(
        directory.join("tenants.toml"),
        format!("[[plan]]\nid = \"default\"\npolicy = \"default\"\n{tenants}"),
    )?;
    let path = directory.join("gateway.toml");
    std::fs::write(&path, gateway)?;
    match Config::load(Some(&path)) {
        Ok(loaded) => Ok(loaded.config),
        Err(errors) => Err(anyhow::anyhow!("{errors}")).context("the demo's own configuration has faults"),
    }
}

/// What a person reads: where it is, who may come in, and three lines to paste.
fn told(url: &str, arguments: &DemoArguments, ca_file: &Path, keys: &[(&str, String)], backends: &[String]) -> String {
    let key = keys.first().map_or("", |(_, key)| key.as_str());
    let ca = ca_file.display();
    let curl = format!("curl -s --cacert {ca}");
    let tenants: String = keys.iter().map(|(tenant, key)| format!("  {tenant:<8} {key}\n")).collect();
    let history = format!("{curl} -H 'Authorization: Bearer {key}' {url}/history/first-picture");
    format!(
        "Comfygate demo: {url}\n\
         metrics: http://{}/metrics\n\
         simulated backends: {}\n\
         tenants and their keys:\n{tenants}\n\
         Paste these, one after the other.\n\n\
         # 1. submit a workflow\n\
         {curl} -H 'Authorization: Bearer {key}' -H 'Content-Type: application/json' {url}/prompt -d '{{\"prompt_id\":\"first-picture\",\"prompt\":{WORKFLOW}}}'\n\n\
         # 2. follow it until its picture is there\n\
         until {history} | grep -o '\"url\":\"[^\"]*'; do sleep 0.3; done\n\n\
         # 3. fetch the picture by its signed URL, without any key\n\
         {curl} -o first-picture.png \"$({history} | grep -o '\"url\":\"[^\"]*' | cut -d'\"' -f4)\" && file first-picture.png\n\n\
         Ctrl-C ends the demo and removes its files.\n",
        arguments.metrics,
        backends.join(", "),
    )
}
