//! `comfygate check`: every fault of configuration, tenants and policies, at once, with warnings.

use crate::config::Config;
use crate::config::faults::Fault;
use serde_json::{Value, json};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// What `comfygate check` is asked.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct CheckArgs {
    /// Configuration file [default: $COMFYGATE_CONFIG, ./config/gateway.toml, /etc/comfygate/gateway.toml, built-in defaults]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print one JSON object instead of lines
    #[arg(long)]
    pub json: bool,
}

/// Exit status: the configuration may be used.
pub const GOOD: u8 = 0;
/// Exit status: it may not.
pub const FAULTY: u8 = 1;

/// Checks the configuration that `serve` would use, and prints what it finds: `FILE:LINE:COLUMN: error: KEY: WHAT (HINT)`. Gives the exit status.
///
/// # Errors
/// `out` can't be written.
pub fn run(args: &CheckArgs, out: &mut dyn Write) -> io::Result<u8> {
    let (file, errors, warnings) = match Config::load(args.config.as_deref()) {
        Ok(loaded) => (loaded.config.file, Vec::new(), loaded.warnings),
        Err(faults) => (None, faults.errors, faults.warnings),
    };
    let status = if errors.is_empty() { GOOD } else { FAULTY };
    if args.json {
        writeln!(out, "{}", as_json(file.as_deref(), &errors, &warnings))?;
    } else {
        print(out, file.as_deref(), &errors, &warnings)?;
    }
    Ok(status)
}

fn print(out: &mut dyn Write, file: Option<&Path>, errors: &[Fault], warnings: &[Fault]) -> io::Result<()> {
    for (kind, faults) in [("error", errors), ("warning", warnings)] {
        for fault in faults {
            writeln!(out, "{}: {kind}: {}", fault.position(), fault.message())?;
        }
    }
    let count = |count: usize, name: &str| format!("{count} {name}{}", if count == 1 { "" } else { "s" });
    if errors.is_empty() {
        let checked = file.map_or_else(
            || "built-in defaults (no configuration file)".to_owned(),
            |file| file.display().to_string(),
        );
        writeln!(out, "{checked}: good, {}", count(warnings.len(), "warning"))
    } else {
        writeln!(
            out,
            "{}, {}",
            count(errors.len(), "error"),
            count(warnings.len(), "warning")
        )
    }
}

fn as_json(file: Option<&Path>, errors: &[Fault], warnings: &[Fault]) -> Value {
    let fault = |fault: &Fault| {
        let place = &fault.place;
        json!({"file": place.file.display().to_string(), "line": place.line, "column": place.column, "key": place.key, "message": fault.what, "hint": fault.hint})
    };
    let list = |faults: &[Fault]| faults.iter().map(fault).collect::<Vec<_>>();
    json!({"good": errors.is_empty(), "file": file.map(|file| file.display().to_string()), "errors": list(errors), "warnings": list(warnings)})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, json: bool) -> (u8, String) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("g.toml");
        std::fs::write(&file, text).unwrap();
        let mut out = Vec::new();
        let status = run(
            &CheckArgs {
                config: Some(file),
                json,
            },
            &mut out,
        )
        .unwrap();
        (
            status,
            String::from_utf8(out)
                .unwrap()
                .replace(dir.path().to_str().unwrap(), "DIR"),
        )
    }

    #[test]
    fn a_good_file_is_told_so_with_status_0() {
        assert_eq!(check("", false), (GOOD, "DIR/g.toml: good, 0 warnings\n".to_owned()));
    }

    #[test]
    fn every_fault_has_a_line_that_editors_can_jump_to_and_the_status_is_1() {
        let (status, out) = check("public_url = \"http://x\"\n[views]\nlifetme = \"1h\"\n", false);
        assert_eq!(status, FAULTY);
        let lines: Vec<&str> = out.lines().collect();
        assert!(
            lines[0].starts_with("DIR/g.toml:1:14: error: `public_url`: a public URL is"),
            "{out}"
        );
        assert_eq!(
            lines[1],
            "DIR/g.toml:3:1: error: `views.lifetme`: is not a known key (did you mean `lifetime`?)"
        );
        assert_eq!(lines[2], "2 errors, 0 warnings");
    }

    #[test]
    fn json_has_the_same_faults() {
        let (status, out) = check("[[listen]]\naddress = \"nowhere\"\n", true);
        let value: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(
            (status, &value["good"], &value["errors"][0]["line"]),
            (FAULTY, &json!(false), &json!(2))
        );
        assert_eq!(value["errors"][0]["key"], "listen[0].address");
    }

    #[test]
    fn a_file_that_is_not_there_is_a_fault_and_no_default() {
        let mut out = Vec::new();
        let args = CheckArgs {
            config: Some("no/such/file.toml".into()),
            json: false,
        };
        assert_eq!(run(&args, &mut out).unwrap(), FAULTY);
        assert!(String::from_utf8(out).unwrap().contains("can't read"));
    }
}
