//! `comfygate check`: every fault of configuration, tenants and policies, at once, with warnings.

use super::{ConfigArgument, Exit};
use crate::config::faults::{Fault, Place};
use crate::config::{Config, WarmUpConfig};
use crate::dispatch::warm_up;
use serde_json::{Value, json};
use std::io::{self, Write};
use std::path::Path;

/// What `comfygate check` is asked.
#[derive(Debug, Clone, clap::Args)]
pub struct CheckArguments {
    /// Which configuration.
    #[command(flatten)]
    pub which: ConfigArgument,
    /// Print one JSON object instead of lines
    #[arg(long)]
    pub json: bool,
}

/// Runs `comfygate check`: prints every fault of the configuration that `serve` would use, as `FILE:LINE:COLUMN: error: KEY: WHAT (HINT)`.
///
/// # Errors
/// Standard output can't be written.
pub fn run(arguments: &CheckArguments) -> anyhow::Result<Exit> {
    Ok(check(arguments, &mut io::stdout().lock())?)
}

fn check(args: &CheckArguments, out: &mut dyn Write) -> io::Result<Exit> {
    let (file, errors, warnings) = match Config::load(args.which.config.as_deref()) {
        Ok(loaded) => {
            let (errors, warnings) = (against_catalogues(&loaded.config), loaded.warnings_of_files());
            (loaded.config.file, errors, warnings)
        }
        Err(faults) => (None, faults.errors, faults.warnings),
    };
    if args.json {
        writeln!(out, "{}", as_json(file.as_deref(), &errors, &warnings))?;
    } else {
        print(out, file.as_deref(), &errors, &warnings)?;
    }
    Ok(if errors.is_empty() { Exit::Good } else { Exit::No })
}

/// The faults that only the catalogues of the pools show. Catalogues that can't be read are told by the start.
fn against_catalogues(config: &Config) -> Vec<Fault> {
    let needed = config.backends.iter().any(|backend| matches!(backend.warm_up, WarmUpConfig::File { .. }));
    let (Some(file), true) = (&config.file, needed) else { return Vec::new() };
    let Ok(inspector) = crate::app::inspector(config) else { return Vec::new() };
    let fault = |what| Fault { place: Place::file(file), what, hint: String::new() };
    warm_up::faults(config, &inspector).into_iter().map(fault).collect()
}

fn print(out: &mut dyn Write, file: Option<&Path>, errors: &[Fault], warnings: &[Fault]) -> io::Result<()> {
    for (kind, faults) in [("error", errors), ("warning", warnings)] {
        for fault in faults {
            writeln!(out, "{}: {kind}: {}", fault.position(), fault.message())?;
        }
    }
    let count = |count: usize, name: &str| format!("{count} {name}{}", if count == 1 { "" } else { "s" });
    if errors.is_empty() {
        let checked = file
            .map_or_else(|| "built-in defaults (no configuration file)".to_owned(), |file| file.display().to_string());
        writeln!(out, "{checked}: good, {}", count(warnings.len(), "warning"))
    } else {
        writeln!(out, "{}, {}", count(errors.len(), "error"), count(warnings.len(), "warning"))
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
    use std::path::PathBuf;

    /// Whether the answer is yes, and what was printed.
    fn run_on(config: PathBuf, json: bool) -> (bool, String) {
        let mut out = Vec::new();
        let arguments = CheckArguments { which: ConfigArgument { config: Some(config) }, json };
        let exit = check(&arguments, &mut out).unwrap();
        (matches!(exit, Exit::Good), String::from_utf8(out).unwrap())
    }

    fn checked(text: &str, json: bool) -> (bool, String) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("g.toml");
        std::fs::write(&file, text).unwrap();
        let (good, out) = run_on(file, json);
        (good, out.replace(dir.path().to_str().unwrap(), "DIR"))
    }

    #[test]
    fn a_good_file_is_told_so_and_the_answer_is_yes() {
        assert_eq!(checked("", false), (true, "DIR/g.toml: good, 0 warnings\n".to_owned()));
    }

    #[test]
    fn every_fault_has_a_line_that_editors_can_jump_to_and_the_answer_is_no() {
        let (good, out) = checked("public_url = \"http://x\"\n[views]\nlifetme = \"1h\"\n", false);
        assert!(!good);
        let lines: Vec<&str> = out.lines().collect();
        assert!(lines[0].starts_with("DIR/g.toml:1:14: error: `public_url`: a public URL is"), "{out}");
        assert_eq!(lines[1], "DIR/g.toml:3:1: error: `views.lifetme`: is not a known key (did you mean `lifetime`?)");
        assert_eq!(lines[2], "2 errors, 0 warnings");
    }

    #[test]
    fn json_has_the_same_faults() {
        let (good, out) = checked("[[listen]]\naddress = \"nowhere\"\n", true);
        let value: Value = serde_json::from_str(&out).unwrap();
        assert_eq!((good, &value["good"], &value["errors"][0]["line"]), (false, &json!(false), &json!(2)));
        assert_eq!(value["errors"][0]["key"], "listen[0].address");
    }

    #[test]
    fn a_file_that_is_not_there_is_a_fault_and_no_default() {
        let (good, out) = run_on("no/such/file.toml".into(), false);
        assert!(!good && out.contains("can't read"), "{out}");
    }
}
