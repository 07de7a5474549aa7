//! What `setup` writes, as texts. Pure: paths and names in, files out.

use crate::endpoint::BackendEndpoint;
use crate::ids::{BackendId, TenantId};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// The policy that ships for owners: a copy, to be edited.
const POLICY: &str = include_str!("../../../../policies/documents/owner.toml");

/// Everything that was decided.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    dir: PathBuf,
    pub(super) state_dir: PathBuf,
    pub(super) backend_id: BackendId,
    pub(super) tenant: TenantId,
    backend: String,
    port: u16,
    metrics_port: u16,
    lan: bool,
    names: Vec<String>,
}

impl Plan {
    /// A plan for the absolute directory `dir`. `names` are further names of this machine for its certificate.
    #[expect(clippy::expect_used, reason = "the literals are ids, as a test shows")]
    pub(super) fn new(
        dir: &Path,
        backend: &BackendEndpoint,
        port: u16,
        metrics_port: u16,
        lan: bool,
        names: Vec<String>,
    ) -> Self {
        Self {
            dir: dir.to_owned(),
            state_dir: dir.join("state"),
            backend_id: "comfyui".parse().expect("`comfyui` is a backend id"),
            tenant: "owner".parse().expect("`owner` is a tenant id"),
            backend: backend.to_string(),
            port,
            metrics_port,
            lan,
            names,
        }
    }

    pub(super) fn gateway_file(&self) -> PathBuf {
        self.dir.join("config/gateway.toml")
    }

    /// Every file with its text.
    pub(super) fn files(&self) -> Vec<(PathBuf, String)> {
        vec![
            (self.gateway_file(), self.gateway()),
            (self.dir.join("config/tenants.toml"), self.tenants()),
            (self.dir.join("config/owner.toml"), POLICY.to_owned()),
            (self.dir.join("comfygate.service"), self.unit()),
        ]
    }

    fn gateway(&self) -> String {
        let host = if self.lan { "0.0.0.0" } else { "127.0.0.1" };
        let mut text = format!(
            "# Written by `comfygate setup`. Every key is explained in config/gateway.toml of the source; `comfygate check` finds faults.\n\n\
             [[listen]]\naddress = \"{host}:{}\"\n\n\
             [metrics]\naddress = \"127.0.0.1:{}\"\n\n\
             [state]\ndir = {}\n\n\
             [[backends]]\nid = \"{}\"\nurl = {}\n\n\
             [tenants]\nfile = {}\n",
            self.port,
            self.metrics_port,
            quoted(&self.state_dir.display().to_string()),
            self.backend_id,
            quoted(&self.backend),
            quoted(&self.dir.join("config/tenants.toml").display().to_string()),
        );
        if !self.names.is_empty() {
            let names: Vec<String> = self.names.iter().map(|name| quoted(name)).collect();
            let _ = write!(
                text,
                "\n# Further names and addresses of this machine, for the certificate that is made.\n[certificate]\nnames = [{}]\n",
                names.join(", ")
            );
        }
        text
    }

    fn tenants(&self) -> String {
        format!(
            "# Written by `comfygate setup`. `comfygate key create --tenant {tenant} --user NAME` lets another person of the team in.\n\n\
             [[plan]]\nid = \"owner\"\npolicy = {policy}\n\
             # One person at a page: generous, and a lost key still can't fill the queue for a week.\n\
             rate = {{ per_second = 20, burst = 50 }}\nrequests = {{ per_second = 200, burst = 1000 }}\nactive_jobs_max = 1000\n\n\
             [[tenant]]\nid = \"{tenant}\"\nplan = \"owner\"\n",
            tenant = self.tenant,
            policy = quoted(&self.dir.join("config/owner.toml").display().to_string()),
        )
    }

    fn unit(&self) -> String {
        let program = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("/usr/local/bin/comfygate"));
        UNIT.replace("@PROGRAM@", &program.display().to_string())
            .replace("@CONFIG@", &self.gateway_file().display().to_string())
            .replace("@DIR@", &self.dir.display().to_string())
            .replace("@STATE@", &self.state_dir.display().to_string())
            .replace("@USER@", &owner_of(&self.dir))
    }

    /// How to start it in the foreground.
    pub(super) fn serve_command(&self) -> String {
        format!("comfygate serve --config {}", self.gateway_file().display())
    }

    /// How to have systemd start it at each boot.
    pub(super) fn install_command(&self) -> String {
        let unit = self.dir.join("comfygate.service");
        format!("cp {} /etc/systemd/system/ && systemctl enable --now comfygate", unit.display())
    }

    /// Where the page is: by the network's address if there is one.
    pub(super) fn page_url(&self, own: &[IpAddr]) -> String {
        let host = match own.first() {
            Some(IpAddr::V6(address)) => format!("[{address}]"),
            Some(address) => address.to_string(),
            None => "127.0.0.1".to_owned(),
        };
        format!("https://{host}:{}", self.port)
    }
}

/// A TOML basic string: JSON's escapes are among TOML's.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The name of the user whose directory it is, or its number.
fn owner_of(dir: &Path) -> String {
    use std::os::unix::fs::MetadataExt;
    let nearest = dir.ancestors().find_map(|ancestor| std::fs::metadata(ancestor).ok());
    let id = nearest.map_or(0, |metadata| metadata.uid()).to_string();
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let named = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == id).then(|| name.to_owned())
    });
    named.unwrap_or(id)
}

/// A unit for this installation; hardened as far as a process goes that only talks to sockets and writes below one directory.
const UNIT: &str = include_str!("comfygate.service.in");

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(lan: bool, names: &[&str]) -> Plan {
        let backend = BackendEndpoint::parse("http://127.0.0.1:8188").unwrap();
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        Plan::new(Path::new("/srv/my \"gate\""), &backend, 8443, 9901, lan, names)
    }

    #[test]
    fn paths_with_odd_characters_stay_one_text() {
        let parsed: toml::Table = plan(false, &[]).gateway().parse().unwrap();
        assert_eq!(parsed["state"]["dir"].as_str(), Some("/srv/my \"gate\"/state"));
        let tenants: toml::Table = plan(false, &[]).tenants().parse().unwrap();
        assert_eq!(tenants["plan"][0]["policy"].as_str(), Some("/srv/my \"gate\"/config/owner.toml"));
    }

    #[test]
    fn only_with_lan_do_others_connect() {
        assert!(plan(false, &[]).gateway().contains("\"127.0.0.1:8443\""));
        let open = plan(true, &["192.168.1.5", "box.local"]).gateway();
        assert!(
            open.contains("\"0.0.0.0:8443\"") && open.contains("names = [\"192.168.1.5\", \"box.local\"]"),
            "{open}"
        );
    }

    #[test]
    fn the_page_is_where_others_see_it() {
        assert_eq!(plan(false, &[]).page_url(&[]), "https://127.0.0.1:8443");
        assert_eq!(plan(true, &[]).page_url(&["fd00::5".parse().unwrap()]), "https://[fd00::5]:8443");
    }

    #[test]
    fn the_unit_has_no_place_left_open() {
        let unit = plan(false, &[]).unit();
        for open in ["@PROGRAM@", "@CONFIG@", "@DIR@", "@STATE@", "@USER@"] {
            assert!(UNIT.contains(open) && !unit.contains(open), "{open} in {unit}");
        }
    }
}
