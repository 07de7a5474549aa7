//! Part of the control socket: what was charged, as JSON, CSV or a table.
//!
//! | route | answer |
//! |---|---|
//! | `GET /v1/usage?from=2026-01-01&to=2026-01-31&tenant=acme&by=day,tenant&format=csv` | the report; 400 with the reason for a question that can't be answered |
//!
//! Without `from` and `to`: this month until today, in UTC. `by` names columns; all else is summed up. By workflow, a shorter time is remembered.

use super::api::{Api, Operation};
use super::api_error::{self, Code, Refused};
use super::control_client::{ControlClient, ControlError};
use super::table::Table;
use crate::calendar::Day;
use crate::clock::WallMillis;
use crate::ids::TenantId;
use crate::record::ledger::budgets::{Dimension, Usage, UsageKey, UsageQuery};
use crate::services::Services;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::sync::Arc;

/// How a report is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// For people: columns under each other.
    Table,
    /// One object with the query and its rows.
    #[default]
    Json,
    /// RFC 4180 with a line of names, for spreadsheets.
    Csv,
}

impl Format {
    /// The format of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Table, Self::Json, Self::Csv].into_iter().find(|format| format.name() == name)
    }

    /// As queries and the command line write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Table => "table",
            Self::Json => "json",
            Self::Csv => "csv",
        }
    }

    fn content_type(self) -> &'static str {
        match self {
            Self::Table => "text/plain; charset=utf-8",
            Self::Json => "application/json",
            Self::Csv => "text/csv; charset=utf-8",
        }
    }
}

/// A question as it is asked, by the command line and by the route alike.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    /// The first day, `2026-01-31`.
    pub from: Option<String>,
    /// The last day.
    pub to: Option<String>,
    /// Of this tenant only.
    pub tenant: Option<String>,
    /// Columns, with commas between them.
    pub by: Option<String>,
    /// `table`, `json` or `csv`.
    pub format: Option<String>,
}

impl Asked {
    /// The query, with what was not said filled in.
    ///
    /// # Errors
    /// What can't be read, and what would do.
    pub fn query(&self, now: WallMillis) -> Result<(UsageQuery, Format), String> {
        let today = Day::of(now);
        let day = |text: &Option<String>, default: Day| match text {
            Some(text) => text.parse::<Day>().map_err(|error| error.to_string()),
            None => Ok(default),
        };
        let to = day(&self.to, today)?;
        let from = day(&self.from, to.month_start())?;
        if from > to {
            return Err(format!("`from` is {from} and `to` is {to}, which is earlier: turn them round"));
        }
        let tenant =
            self.tenant.as_deref().map(str::parse::<TenantId>).transpose().map_err(|error| error.to_string())?;
        let by = self.by.as_deref().unwrap_or("day,tenant").split(',').map(str::trim).filter(|name| !name.is_empty());
        let by = by.map(dimension).collect::<Result<Vec<_>, _>>()?;
        let format = match self.format.as_deref() {
            None => Format::default(),
            Some(name) => Format::from_name(name).ok_or_else(|| unknown(name, "format", "table, json, csv"))?,
        };
        Ok((UsageQuery { from, to, tenant, by }, format))
    }

    /// Its path on the control socket. Everything in it was checked, and needs no escapes.
    fn path(query: &UsageQuery, format: Format) -> String {
        let UsageQuery { from, to, tenant, by } = query;
        let by: Vec<&str> = by.iter().map(|dimension| dimension.name()).collect();
        let tenant = tenant.as_ref().map(|tenant| format!("&tenant={tenant}")).unwrap_or_default();
        format!("/v1/usage?from={from}&to={to}&by={}&format={}{tenant}", by.join(","), format.name())
    }
}

fn dimension(name: &str) -> Result<Dimension, String> {
    let known: Vec<&str> = Dimension::ALL.iter().map(|dimension| dimension.name()).collect();
    Dimension::from_name(name).ok_or_else(|| unknown(name, "column", &known.join(", ")))
}

fn unknown(found: &str, what: &str, known: &str) -> String {
    let found: String = found.chars().take(40).flat_map(char::escape_default).collect();
    format!("`{found}` is no {what}: take of {known}")
}

/// The report as text.
pub fn report(query: &UsageQuery, format: Format, rows: &[(UsageKey, Usage)]) -> String {
    let columns: Vec<Dimension> = Dimension::ALL.into_iter().filter(|dimension| query.has(*dimension)).collect();
    match format {
        Format::Json => json(query, &columns, rows),
        Format::Csv => csv(&columns, rows),
        Format::Table => table(&columns, rows),
    }
}

fn json(query: &UsageQuery, columns: &[Dimension], rows: &[(UsageKey, Usage)]) -> String {
    let row = |(key, usage): &(UsageKey, Usage)| {
        let mut row: serde_json::Map<String, Value> =
            columns.iter().map(|column| (column.name().to_owned(), key.value(*column).into())).collect();
        row.insert("jobs".into(), usage.jobs.into());
        row.insert("gpu_seconds".into(), usage.charge.seconds().into());
        row
    };
    let rows: Vec<_> = rows.iter().map(row).collect();
    format!("{}\n", json!({"from": query.from.to_string(), "to": query.to.to_string(), "rows": rows}))
}

fn csv(columns: &[Dimension], rows: &[(UsageKey, Usage)]) -> String {
    let mut text = String::new();
    for name in columns.iter().map(|column| column.name()) {
        text.push_str(name);
        text.push(',');
    }
    text.push_str("jobs,gpu_seconds\r\n");
    for (key, usage) in rows {
        for column in columns {
            text.push_str(&cell(key.value(*column)));
            text.push(',');
        }
        // Writing into a text can't fail.
        let _ = write!(text, "{},{}\r\n", usage.jobs, usage.charge);
    }
    text
}

/// One cell. SECURITY: names of users and models are callers' own, and spreadsheets run what begins with one of these signs; the apostrophe makes it a text.
fn cell(value: &str) -> String {
    let formula = value.starts_with(['=', '+', '-', '@', '\t', '\r', '\n']);
    let safe = if formula { format!("'{value}") } else { value.to_owned() };
    if formula || safe.contains([',', '"', '\r', '\n', '\'']) {
        format!("\"{}\"", safe.replace('"', "\"\""))
    } else {
        safe
    }
}

fn table(columns: &[Dimension], rows: &[(UsageKey, Usage)]) -> String {
    let mut table = Table::new(columns.iter().map(|column| column.name()).chain(["#jobs", "#gpu_seconds"]));
    for (key, usage) in rows {
        let values = columns.iter().map(|column| key.value(*column).to_owned());
        table.line(values.chain([usage.jobs.to_string(), usage.charge.to_string()]));
    }
    table.with_names()
}

/// The route.
pub fn router(services: &Arc<Services>) -> Api {
    let operation = Operation::get("/v1/usage", "What was used, as a table, JSON or CSV")
        .query("from", "the first day, such as 2026-11-01")
        .query("to", "the last day")
        .query("tenant", "only this tenant's")
        .query("by", "some of day,tenant,user,model,workflow")
        .query("format", "`table`, `json` or `csv`")
        .text(StatusCode::OK, "the report, in the format that was asked for")
        .refuses(&[Code::TooManyRows, Code::Unavailable]);
    Api::new().route(operation, usage).with_state(Arc::clone(services))
}

async fn usage(
    State(services): State<Arc<Services>>,
    api_error::Asked(asked): api_error::Asked<Asked>,
) -> Result<impl IntoResponse, Refused> {
    let (query, format) = asked.query(services.clock.wall()).map_err(|reason| Refused::new(Code::BadQuery, reason))?;
    let rows = services.ledger.usage(query.clone()).await?;
    Ok(([(header::CONTENT_TYPE, format.content_type())], report(&query, format, &rows)))
}

impl ControlClient {
    /// The report of a running gateway.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn usage(&self, query: &UsageQuery, format: Format) -> Result<String, ControlError> {
        let (status, text) = self.slow_call(Method::GET, &Asked::path(query, format), Vec::new()).await?;
        if status == StatusCode::NOT_FOUND {
            return Err(ControlError::Refused("it is of a release that tells no usage: upgrade it".to_owned()));
        }
        String::from_utf8(text.to_vec()).map_err(|error| ControlError::Answer(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Charge;
    use axum::extract::Query;

    const NOW: WallMillis = WallMillis(1_795_000_000_000);

    fn asked(by: Option<&str>) -> Asked {
        Asked { by: by.map(str::to_owned), ..Asked::default() }
    }

    fn rows() -> Vec<(UsageKey, Usage)> {
        let row = |user: &str, model: &str, millis| {
            let key = UsageKey { user: Some(user.into()), model: Some(model.into()), ..UsageKey::default() };
            (key, Usage { jobs: 2, charge: Charge::of_millis(millis) })
        };
        vec![row("", "a,\"b\".safetensors", 1500), row("+ann", "=cmd|' /C calc'!A0\u{1b}[2J", 61_000)]
    }

    #[test]
    fn what_is_not_said_is_this_month_by_day_and_tenant() {
        let (query, format) = asked(None).query(NOW).unwrap();
        assert_eq!((query.from.to_string(), query.to.to_string()), ("2026-11-01".into(), "2026-11-18".into()));
        assert_eq!((query.by, format), (vec![Dimension::Day, Dimension::Tenant], Format::Json));
        let past = Asked { to: Some("2025-02-28".into()), ..Asked::default() };
        assert_eq!(past.query(NOW).unwrap().0.from.to_string(), "2025-02-01");
    }

    #[test]
    fn a_question_that_can_not_be_answered_is_told_what_would_do() {
        let said = |asked: Asked| asked.query(NOW).unwrap_err();
        assert!(
            said(asked(Some("day,colour")))
                .contains("`colour` is no column: take of day, tenant, user, model, workflow")
        );
        assert!(said(Asked { format: Some("xml".into()), ..Asked::default() }).contains("table, json, csv"));
        assert!(said(Asked { from: Some("yesterday".into()), ..Asked::default() }).contains("`2026-01-31`"));
        assert!(said(Asked { tenant: Some("A/b".into()), ..Asked::default() }).contains("is no tenant id"));
        let turned = Asked { from: Some("2026-02-02".into()), to: Some("2026-02-01".into()), ..Asked::default() };
        assert!(said(turned).contains("turn them round"));
        let one_day = Asked { from: Some("2026-02-01".into()), to: Some("2026-02-01".into()), ..Asked::default() };
        assert!(one_day.query(NOW).is_ok());
    }

    #[test]
    fn what_the_command_line_asks_is_what_the_route_reads() {
        let (query, format) = Asked {
            tenant: Some("acme".into()),
            by: Some("user,model".into()),
            format: Some("csv".into()),
            ..Asked::default()
        }
        .query(NOW)
        .unwrap();
        let uri: http::Uri = Asked::path(&query, format).parse().unwrap();
        let Query(read) = Query::<Asked>::try_from_uri(&uri).unwrap();
        assert_eq!(read.query(WallMillis(0)).unwrap(), (query, format));
        assert!(Query::<Asked>::try_from_uri(&"/v1/usage?until=1".parse().unwrap()).is_err());
    }

    #[test]
    fn no_cell_of_a_csv_is_a_formula_or_breaks_its_row() {
        let (query, _) = asked(Some("user,model")).query(NOW).unwrap();
        assert_eq!(
            report(&query, Format::Csv, &rows()),
            "user,model,jobs,gpu_seconds\r\n,\"a,\"\"b\"\".safetensors\",2,1.500\r\n\"'+ann\",\"'=cmd|' /C calc'!A0\u{1b}[2J\",2,61.000\r\n"
        );
        for text in ["=1", "+1", "-1", "@x", "\tx", "\rx", "\nx"] {
            assert!(cell(text).starts_with("\"'"), "{text:?}");
        }
        assert_eq!(cell("a=1"), "a=1");
    }

    #[test]
    fn json_has_numbers_and_a_table_no_control_characters() {
        let (query, _) = asked(Some("model,user")).query(NOW).unwrap();
        let told: Value = serde_json::from_str(&report(&query, Format::Json, &rows())).unwrap();
        assert_eq!(told["rows"][0], json!({"user": "", "model": "a,\"b\".safetensors", "jobs": 2, "gpu_seconds": 1.5}));
        assert_eq!((&told["from"], &told["to"]), (&json!("2026-11-01"), &json!("2026-11-18")));
        let table = report(&query, Format::Table, &rows());
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 3, "{table}");
        assert!(lines[1].starts_with("-     a,") && lines[1].ends_with("2        1.500"), "{table}");
        assert!(!table.contains('\u{1b}'), "{table}");
    }
}
