//! `comfygate-stand-in`: a ComfyUI 0.8.0 without models, for trying a gateway out.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use comfygate_stand_in::{Options, PACKS_MAX, StandIn};

/// A ComfyUI that runs no models: same routes, same errors, same events.
#[derive(Debug, Parser)]
#[command(name = "comfygate-stand-in")]
struct Arguments {
    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1:8188")]
    listen: SocketAddr,
    /// Serve several users, told apart by the header comfy-user
    #[arg(long)]
    multi_user: bool,
    /// Factor on every simulated duration: 0.1 is ten times faster
    #[arg(long, default_value_t = 1.0)]
    tick: f64,
    /// Base of output, input, temp and user; a temporary one when absent
    #[arg(long)]
    directory: Option<PathBuf>,
    /// Milliseconds during which connections are refused after the start
    #[arg(long, default_value_t = 0)]
    start_delay_ms: u64,
    /// Keep no results between prompts
    #[arg(long)]
    cache_none: bool,
    /// Hide the node classes that call services
    #[arg(long)]
    disable_api_nodes: bool,
    /// Send previews while sampling
    #[arg(long)]
    previews: bool,
    /// Folder of the web page's files, such as the `static` of comfyui-frontend-package
    #[arg(long)]
    web_root: Option<PathBuf>,
    /// How many made-up node packs are installed
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=i64::from(PACKS_MAX)))]
    packs: u32,
    /// Behave as versions after 0.8.0 do
    #[arg(long)]
    newer: bool,
    /// Accept faults by POST /stand-in/faults
    #[arg(long)]
    faults: bool,
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let arguments = Arguments::parse();
    let stand_in = StandIn::start(Options {
        listen: arguments.listen,
        tick: arguments.tick,
        multi_user: arguments.multi_user,
        directory: arguments.directory,
        start_delay: Duration::from_millis(arguments.start_delay_ms),
        cache: !arguments.cache_none,
        api_nodes: !arguments.disable_api_nodes,
        previews: arguments.previews,
        web_root: arguments.web_root,
        packs: arguments.packs,
        newer: arguments.newer,
        faults_by_http: arguments.faults,
        ..Options::default()
    })
    .await?;
    writeln!(std::io::stdout(), "{}", stand_in.url())?;
    tokio::signal::ctrl_c().await
}
