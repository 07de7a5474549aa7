//! `comfygate refusals`: what the policy refused, by which rule, and which lines of it would allow it. Of a running gateway through its control socket, else from the ledger itself.

use super::reach::{self, Here, NoState};
use super::{ConfigArgument, Exit};
use crate::admin::control_client::ControlClient;
use crate::admin::refusals::{REFUSALS_MAX, RefusalView};
use crate::clock::{Clock, WallMillis};
use crate::config::units::parse_duration;
use crate::ids::{RequestId, TenantId};
use crate::inspect::refused;
use crate::record::ledger::LedgerError;
use crate::record::ledger::refusals::{RefusalQuery, RefusalRow, Refusals, RefusedRule};
use clap::Args;
use comfygate_policy::suggest;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::time::Duration;

/// `comfygate refusals`
#[derive(Debug, Args)]
pub struct RefusalsArguments {
    #[command(flatten)]
    which: ConfigArgument,
    /// Of this tenant only
    #[arg(long)]
    tenant: Option<TenantId>,
    /// Not older than this, such as 2h or 7d
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    since: Option<Duration>,
    /// The one with this id (`request_id` in the answer, `x-request-id` in its head), with what was submitted
    #[arg(long, value_name = "ID", conflicts_with_all = ["tenant", "since", "shadow"])]
    request: Option<RequestId>,
    /// What a policy in shadow mode would have refused, and let pass
    #[arg(long)]
    shadow: bool,
    /// At most this many, the newest (1000 at most)
    #[arg(long, default_value_t = 20)]
    limit: usize,
    /// Print JSON, one object a line
    #[arg(long)]
    json: bool,
}

/// Runs `comfygate refusals`. The answer is no if the request that is asked for is not known.
///
/// # Errors
/// When the configuration has faults, or neither the gateway nor its ledger can be reached.
pub fn run(arguments: &RefusalsArguments) -> anyhow::Result<Exit> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let reached = Reached::reach(&arguments.which)?;
    let mut out = io::stdout().lock();
    if let Some(request) = arguments.request {
        let Some(view) = runtime.block_on(reached.refusal(request))? else {
            eprintln!("comfygate: no refusal of the request {request} is remembered: `comfygate refusals` lists them");
            return Ok(Exit::No);
        };
        if arguments.json {
            writeln!(out, "{}", serde_json::to_string(&view)?)?;
        } else {
            write!(out, "{}", account(&view.refusal))?;
            if let Some(submission) = &view.submission {
                writeln!(out, "submitted: {submission}")?;
            }
        }
        return Ok(Exit::Good);
    }
    let now = Clock::system().wall();
    let since = arguments
        .since
        .map(|since| WallMillis(now.0.saturating_sub(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))));
    if let Some(tenant) = &arguments.tenant
        && !runtime.block_on(reached.knows(tenant))?
    {
        reach::tell_unknown(tenant);
    }
    let query = RefusalQuery {
        tenant: arguments.tenant.clone(),
        since,
        shadow: arguments.shadow,
        limit: arguments.limit.min(REFUSALS_MAX),
    };
    for row in runtime.block_on(reached.refusals(query))? {
        if arguments.json {
            writeln!(out, "{}", serde_json::to_string(&row)?)?;
        } else {
            writeln!(out, "{}", account(&row))?;
        }
    }
    Ok(Exit::Good)
}

/// The running gateway, or its ledger while it does not run.
pub(super) enum Reached {
    Gateway(ControlClient),
    Ledger(Here),
}

impl Reached {
    /// Whoever has the ledger.
    ///
    /// # Errors
    /// Neither can be reached.
    pub(super) fn reach(which: &ConfigArgument) -> anyhow::Result<Self> {
        Ok(match reach::reach(which, NoState::Refused)? {
            reach::Reached::Gateway(client) => Self::Gateway(client),
            reach::Reached::Here(here) => Self::Ledger(here),
        })
    }

    /// Whether there is such a tenant.
    pub(super) async fn knows(&self, tenant: &TenantId) -> anyhow::Result<bool> {
        match self {
            Self::Gateway(client) => Ok(client.tenant(tenant).await?.is_some()),
            Self::Ledger(here) => here.knows(tenant).await,
        }
    }

    /// What was refused, newest first.
    pub(super) async fn refusals(&self, query: RefusalQuery) -> anyhow::Result<Vec<RefusalRow>> {
        Ok(match self {
            Self::Gateway(client) => client.refusals(&query).await?,
            Self::Ledger(here) => here.ledger.refusals(query).await?,
        })
    }

    /// What was refused in one request.
    pub(super) async fn refusal(&self, request: RequestId) -> anyhow::Result<Option<RefusalView>> {
        Ok(match self {
            Self::Gateway(client) => client.refusal(request).await?,
            Self::Ledger(here) => match here.ledger.refusal(request).await {
                Ok((row, graph)) => Some(RefusalView::of(row, graph.as_ref())),
                Err(LedgerError::NotFound { .. }) => None,
                Err(error) => return Err(error.into()),
            },
        })
    }
}

/// For people: who, when, every rule, and the lines that would allow it. Names in it are a caller's: no control character reaches the terminal.
fn account(row: &RefusalRow) -> String {
    let mut text = String::new();
    let owner = match &row.owner.user {
        Some(user) => format!("{}/{user}", row.owner.tenant),
        None => row.owner.tenant.to_string(),
    };
    let word = if row.shadow { "would have been refused" } else { "refused" };
    // Writing into a text can't fail.
    let _ = writeln!(
        text,
        "{}  request {}  {owner}  {word} by the policy `{}` ({})",
        time(row.at),
        row.request,
        printable(&row.policy),
        row.code
    );
    for rule in &row.rules {
        let _ = writeln!(text, "  {}", rule_line(rule));
    }
    if row.more > 0 {
        let _ = writeln!(text, "  … and {} more", row.more);
    }
    let allowing = suggest::lines_of(row.rules.iter().filter_map(|rule| refused::suggested(rule.allow.as_ref()?)));
    let lasting = row.rules.iter().filter(|rule| rule.allow.is_none());
    let remarks: BTreeSet<&str> = lasting.clone().filter_map(|rule| suggest::remark(&rule.code)).collect();
    let lasting = lasting.filter(|rule| suggest::remark(&rule.code).is_none()).count();
    if !allowing.is_empty() {
        let _ = writeln!(text, "  these lines of the policy would allow it:");
        for line in allowing.lines() {
            let _ = writeln!(text, "    {}", printable(line));
        }
    }
    for remark in remarks {
        let _ = writeln!(text, "  no single line allows it: {remark}");
    }
    if lasting > 0 {
        let _ = writeln!(text, "  no line of a policy allows {lasting} of these");
    }
    text
}

fn rule_line(rule: &RefusedRule) -> String {
    let mut line = match (&rule.node, &rule.class) {
        (Some(node), Some(class)) => format!("{} ({}): ", printable(node), printable(class)),
        _ => String::new(),
    };
    line.push_str(&printable(&rule.because));
    let numbers = [("found", &rule.bound), ("allowed", &rule.limit)];
    let numbers: Vec<String> = numbers
        .into_iter()
        .filter_map(|(name, value)| Some(format!("{name} {}", printable(value.as_deref()?))))
        .collect();
    let _ = write!(line, " [{}]", rule.code);
    if !numbers.is_empty() {
        let _ = write!(line, " {}", numbers.join(", "));
    }
    line
}

fn printable(text: &str) -> String {
    let escaped = |character: char| -> Vec<char> {
        if character.is_control() { character.escape_default().collect() } else { vec![character] }
    };
    text.chars().flat_map(escaped).collect()
}

fn time(at: WallMillis) -> String {
    let at = std::time::UNIX_EPOCH.checked_add(Duration::from_secs(at.seconds()));
    at.map_or_else(|| "?".to_owned(), httpdate::fmt_http_date)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::owner::Owner;
    use crate::record::ledger::refusals::{KeyChange, RuleChange};
    use comfygate_policy::Digest;

    fn row(rules: Vec<RefusedRule>) -> RefusalRow {
        RefusalRow {
            request: RequestId::new(),
            at: WallMillis(0),
            owner: Owner { tenant: "acme".parse().unwrap(), user: None, key: None, shared: false },
            shadow: false,
            code: "policy_violation".into(),
            policy: "default".into(),
            policy_digest: Digest::of(b""),
            catalogue: None,
            submission: None,
            rules,
            more: 0,
        }
    }

    fn rule(allow: Option<RuleChange>) -> RefusedRule {
        RefusedRule {
            code: "cap_exceeded".into(),
            node: Some("3".into()),
            class: Some("KSampler".into()),
            bound: Some("200".into()),
            limit: Some("150".into()),
            because: "steps is 200,\nand 150 is allowed".into(),
            allow,
            ..RefusedRule::default()
        }
    }

    #[test]
    fn the_lines_that_would_allow_it_are_shown() {
        let change = RuleChange { key: "caps.steps".into(), change: KeyChange::Raise("200".into()) };
        let text = account(&row(vec![rule(Some(change))]));
        assert!(text.contains("[caps]\n    steps = 200\n"), "{text}");
        assert!(text.contains("3 (KSampler): steps is 200,\\nand"), "{text}");
        assert!(text.contains("[cap_exceeded] found 200, allowed 150"), "{text}");
        assert!(!text.contains("no line of a policy"), "{text}");
    }

    #[test]
    fn what_no_single_line_allows_is_said_with_what_does() {
        let unbounded = RefusedRule { code: "size_unbounded".into(), ..rule(None) };
        let text = account(&row(vec![unbounded.clone(), unbounded]));
        assert_eq!(text.matches("[annotations.CLASS] sizes").count(), 1, "{text}");
        assert!(!text.contains("no line of a policy"), "{text}");
    }

    #[test]
    fn what_no_policy_can_allow_is_said() {
        let text = account(&row(vec![rule(None)]));
        assert!(text.contains("no line of a policy allows 1 of these") && !text.contains("would allow it"), "{text}");
    }
}
