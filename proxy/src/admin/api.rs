//! One list of what the control socket offers, from which both the router and its OpenAPI document follow: a route that stands in one stands in the other.
//!
//! A module adds a route with [`Api::route`]: an [`Operation`] that tells method, path, body and answers by their types, and the handler. [`Api::document`] writes OpenAPI 3.1, whose schemas are JSON Schema
//! of 2020-12 made from the same types that serde reads and writes. What is answered with another status than 2xx has the one form of [`api_error`], whatever the route.

use super::api_error::{self, ApiError, Code};
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::handler::Handler;
use axum::routing::{MethodFilter, on};
use http::{Method, StatusCode};
use schemars::generate::{SchemaGenerator, SchemaSettings};
use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;

type Schemed = fn(&mut SchemaGenerator) -> Schema;

/// What an answer or a body holds.
#[derive(Debug, Clone, Copy)]
enum Content {
    /// Nothing.
    None,
    /// JSON of that type.
    Json(Schemed),
    /// A text for people.
    Text,
    /// Bytes of that type.
    Bytes(&'static str),
}

#[derive(Debug, Clone)]
struct Given {
    status: u16,
    text: &'static str,
    content: Content,
}

#[derive(Debug, Clone, Copy)]
struct Parameter {
    name: &'static str,
    place: &'static str,
    text: &'static str,
    schema: Schemed,
}

/// One method of one path.
#[derive(Debug, Clone)]
pub struct Operation {
    method: Method,
    path: &'static str,
    summary: &'static str,
    parameters: Vec<Parameter>,
    body: Content,
    body_required: bool,
    answers: Vec<Given>,
    refusals: Vec<Code>,
    /// What is told beside a refusal of that code.
    report: Option<(Code, Schemed)>,
}

impl Operation {
    fn new(method: Method, path: &'static str, summary: &'static str) -> Self {
        let (parameters, answers) = (Vec::new(), Vec::new());
        let refusals = if path.contains('{') { vec![Code::BadPath] } else { Vec::new() };
        let (body, body_required) = (Content::None, true);
        Self { method, path, summary, parameters, body, body_required, answers, refusals, report: None }
    }

    /// `GET`; the path as axum writes it.
    pub fn get(path: &'static str, summary: &'static str) -> Self {
        Self::new(Method::GET, path, summary)
    }

    /// `POST`.
    pub fn post(path: &'static str, summary: &'static str) -> Self {
        Self::new(Method::POST, path, summary)
    }

    /// `PUT`.
    pub fn put(path: &'static str, summary: &'static str) -> Self {
        Self::new(Method::PUT, path, summary)
    }

    /// `DELETE`.
    pub fn delete(path: &'static str, summary: &'static str) -> Self {
        Self::new(Method::DELETE, path, summary)
    }

    /// A parameter of the query, which may be left out: a text.
    #[must_use]
    pub fn query(self, name: &'static str, text: &'static str) -> Self {
        self.query_of::<String>(name, text)
    }

    /// The same of that type.
    #[must_use]
    pub fn query_of<T: JsonSchema>(self, name: &'static str, text: &'static str) -> Self {
        self.parameter::<T>(name, "query", text).refuses(&[Code::BadQuery])
    }

    /// A header, which may be left out.
    #[must_use]
    pub fn header(self, name: &'static str, text: &'static str) -> Self {
        self.parameter::<String>(name, "header", text)
    }

    fn parameter<T: JsonSchema>(mut self, name: &'static str, place: &'static str, text: &'static str) -> Self {
        let schema: Schemed = |generator| generator.subschema_for::<T>();
        self.parameters.push(Parameter { name, place, text, schema });
        self
    }

    /// A body of JSON.
    #[must_use]
    pub fn body<T: JsonSchema>(self) -> Self {
        self.takes::<T>().refuses(&[Code::ContentType])
    }

    /// A body of JSON, or none.
    #[must_use]
    pub fn optional_body<T: JsonSchema>(mut self) -> Self {
        self.body_required = false;
        self.takes::<T>()
    }

    fn takes<T: JsonSchema>(mut self) -> Self {
        self.body = Content::Json(|generator| generator.subschema_for::<T>());
        self.refuses(&[Code::BadJson, Code::BodyTooLarge, Code::BadBody])
    }

    /// An answer of JSON.
    #[must_use]
    pub fn json<T: JsonSchema>(self, status: StatusCode, text: &'static str) -> Self {
        self.answer(status, text, Content::Json(|generator| generator.subschema_for::<T>()))
    }

    /// An answer with a text for people.
    #[must_use]
    pub fn text(self, status: StatusCode, text: &'static str) -> Self {
        self.answer(status, text, Content::Text)
    }

    /// An answer without a body.
    #[must_use]
    pub fn empty(self, status: StatusCode, text: &'static str) -> Self {
        self.answer(status, text, Content::None)
    }

    /// An answer of bytes.
    #[must_use]
    pub fn bytes(self, status: StatusCode, text: &'static str, content_type: &'static str) -> Self {
        self.answer(status, text, Content::Bytes(content_type))
    }

    /// What it refuses for beside the faults of path, query and body, which follow from what it takes.
    #[must_use]
    pub fn refuses(mut self, codes: &[Code]) -> Self {
        for code in codes {
            if !self.refusals.contains(code) {
                self.refusals.push(*code);
            }
        }
        self
    }

    /// The same of one code, where the members of a report stand beside the form's own.
    #[must_use]
    pub fn refuses_with<T: JsonSchema>(mut self, code: Code) -> Self {
        self.report = Some((code, |generator| generator.subschema_for::<T>()));
        self.refuses(&[code])
    }

    fn answer(mut self, status: StatusCode, text: &'static str, content: Content) -> Self {
        self.answers.push(Given { status: status.as_u16(), text, content });
        self
    }

    fn filter(&self) -> MethodFilter {
        match self.method {
            Method::POST => MethodFilter::POST,
            Method::PUT => MethodFilter::PUT,
            Method::DELETE => MethodFilter::DELETE,
            _ => MethodFilter::GET,
        }
    }

    fn to_json(&self, generator: &mut SchemaGenerator) -> Value {
        let in_path = self.path.split(['{', '}']).skip(1).step_by(2);
        let parameters: Vec<Value> = in_path
            .map(|name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}))
            .chain(self.parameters.iter().map(|one| {
                let schema = (one.schema)(generator);
                json!({"name": one.name, "in": one.place, "description": one.text, "schema": schema})
            }))
            .collect();
        let mut written = Map::new();
        written.insert("operationId".into(), json!(self.id()));
        written.insert("summary".into(), json!(self.summary));
        if !parameters.is_empty() {
            written.insert("parameters".into(), parameters.into());
        }
        if let Some(content) = self.body.to_json(generator) {
            written.insert("requestBody".into(), json!({"required": self.body_required, "content": content}));
        }
        // Several reasons of one status are one answer.
        let mut answers: BTreeMap<String, Value> = BTreeMap::new();
        for given in &self.answers {
            let mut answer = Map::new();
            answer.insert("description".into(), json!(given.text));
            if let Some(content) = given.content.to_json(generator) {
                answer.insert("content".into(), content);
            }
            answers.entry(given.status.to_string()).or_insert_with(|| answer.into());
        }
        for (status, refusal) in self.refusals(generator) {
            answers.insert(status.as_str().to_owned(), refusal);
        }
        answers.insert("default".into(), json!({"$ref": "#/components/responses/Refused"}));
        written.insert("responses".into(), json!(answers));
        written.into()
    }

    /// By status: its codes, and the form.
    fn refusals(&self, generator: &mut SchemaGenerator) -> BTreeMap<StatusCode, Value> {
        let mut texts: BTreeMap<StatusCode, String> = BTreeMap::new();
        for code in Code::ALL.iter().filter(|code| self.refusals.contains(code)) {
            let text = texts.entry(code.status()).or_default();
            // Writing into a text can't fail.
            let _ = write!(text, "{}`{}`: {}", if text.is_empty() { "" } else { "; " }, code.name(), code.text());
        }
        let of_status = |(status, text)| {
            let form = generator.subschema_for::<ApiError>();
            let schema = match self.report {
                Some((code, report)) if code.status() == status => json!({"allOf": [form, report(generator)]}),
                _ => json!(form),
            };
            let content = json!({"application/json": {"schema": schema}});
            if status == StatusCode::SERVICE_UNAVAILABLE {
                let headers = json!({"Retry-After": {"description": "seconds", "schema": {"type": "integer"}}});
                return (status, json!({"description": text, "content": content, "headers": headers}));
            }
            (status, json!({"description": text, "content": content}))
        };
        texts.into_iter().map(of_status).collect()
    }

    /// Unique, and readable: `put_tenants_id`.
    fn id(&self) -> String {
        let words = self.path.trim_start_matches("/v1/").split(|c: char| !c.is_ascii_alphanumeric());
        let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
        format!("{}_{}", self.method.as_str().to_lowercase(), words.join("_"))
    }
}

impl Content {
    fn to_json(self, generator: &mut SchemaGenerator) -> Option<Value> {
        match self {
            Self::None => None,
            Self::Json(schema) => Some(json!({"application/json": {"schema": schema(generator)}})),
            Self::Text => Some(json!({"text/plain": {"schema": {"type": "string"}}})),
            Self::Bytes(content_type) => Some(json!({content_type: {}})),
        }
    }
}

/// Routes with what they are.
#[derive(Debug)]
pub struct Api<S = ()> {
    router: Router<S>,
    operations: Vec<Operation>,
}

/// Bytes of a body, unless a route says otherwise: a tenant with a thousand networks has thirty thousand.
pub const BODY_BYTES_MAX: usize = 1 << 20;

impl<S: Clone + Send + Sync + 'static> Api<S> {
    /// None yet.
    pub fn new() -> Self {
        Self { router: Router::new(), operations: Vec::new() }
    }

    /// One more.
    #[must_use]
    pub fn route<T: 'static>(mut self, operation: Operation, handler: impl Handler<T, S>) -> Self {
        self.router = self.router.route(operation.path, on(operation.filter(), handler));
        self.operations.push(operation);
        self
    }

    /// What the handlers share.
    #[must_use]
    pub fn with_state(self, state: S) -> Api {
        Api { router: self.router.with_state(state), operations: self.operations }
    }
}

impl<S: Clone + Send + Sync + 'static> Default for Api<S> {
    fn default() -> Self {
        Self::new()
    }
}

impl Api {
    /// Both together.
    #[must_use]
    pub fn merge(mut self, other: Self) -> Self {
        self.router = self.router.merge(other.router);
        self.operations.extend(other.operations);
        self
    }

    /// The router alone.
    pub fn into_router(self) -> Router {
        api_error::router(self.router).layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
    }

    /// The OpenAPI document of all routes, in the order of their paths.
    pub fn document(&self) -> Value {
        let mut generator = SchemaSettings::draft2020_12()
            .with(|settings| settings.definitions_path = "/components/schemas".into())
            .into_generator();
        let mut paths: BTreeMap<&str, BTreeMap<String, Value>> = BTreeMap::new();
        for operation in &self.operations {
            let method = operation.method.as_str().to_lowercase();
            paths.entry(operation.path).or_default().insert(method, operation.to_json(&mut generator));
        }
        let form = generator.subschema_for::<ApiError>();
        let refused = json!({
            "description": "whatever else is refused has the same form: a path that is none (404 `unknown_path`), another method (405 `method_not_allowed`, with `Allow`), a fault of the gateway (500 `internal`)",
            "content": {"application/json": {"schema": form}},
        });
        let schemas: BTreeMap<String, Value> = generator.take_definitions(true).into_iter().collect();
        json!({
            "openapi": "3.1.0",
            "info": {
                "title": "Comfygate control API",
                "version": env!("CARGO_PKG_VERSION"),
                "description": "Served on the unix socket `control.sock` in the state directory: whoever may open that file may do all of this. `curl --unix-socket STATE/control.sock http://control/v1/tenants`",
            },
            "servers": [{"url": "http://control", "description": "any name will do: the socket is what counts"}],
            "paths": paths,
            "components": {"responses": {"Refused": refused}, "schemas": schemas},
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::{Path, PathBuf};

    fn sources(directory: &Path) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
        entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] }).collect()
    }

    #[test]
    fn no_module_of_the_control_socket_makes_a_router_beside_the_list() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/admin");
        // The metrics listener is another one, without anything that changes something.
        let elsewhere = ["api.rs", "metrics.rs"];
        let others = sources(&directory).into_iter().filter(|path| !elsewhere.iter().any(|name| path.ends_with(name)));
        for path in others {
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(!text.contains("Router::new"), "{}: use Api::new", path.display());
        }
    }

    #[test]
    fn no_module_of_the_control_socket_refuses_beside_the_one_form() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/admin");
        let elsewhere = ["api.rs", "api_error.rs", "metrics.rs"];
        let others = sources(&directory).into_iter().filter(|path| !elsewhere.iter().any(|name| path.ends_with(name)));
        for path in others {
            let text = std::fs::read_to_string(&path).unwrap();
            // Tests read queries as axum does.
            let text = text.split("#[cfg(test)]").next().unwrap();
            for extractor in
                ["Json(request): Json<", "extract::rejection", "extract::{Path", "extract::Query", "extract::Path"]
            {
                assert!(!text.contains(extractor), "{}: take it by `Body`, `Asked` or `Named`", path.display());
            }
        }
    }

    #[test]
    fn an_operation_is_told_with_its_parameters_body_and_answers() {
        let operation = Operation::put("/v1/a/{id}/b/{other}", "Sets it")
            .query("why", "for whom")
            .query_of::<bool>("dry", "only tell")
            .query_of::<usize>("limit", "at most so many")
            .header("If-Match", "only then")
            .body::<u32>()
            .json::<Vec<String>>(StatusCode::OK, "so it is")
            .refuses(&[Code::Unavailable, Code::NotFound])
            .refuses_with::<BTreeMap<String, bool>>(Code::Stale);
        async fn handler() {}
        let document = Api::<()>::new().route(operation, handler).document();
        let told = &document["paths"]["/v1/a/{id}/b/{other}"]["put"];
        assert_eq!(told["operationId"], "put_a_id_b_other");
        let names: Vec<&str> =
            told["parameters"].as_array().unwrap().iter().filter_map(|one| one["name"].as_str()).collect();
        assert_eq!(names, ["id", "other", "why", "dry", "limit", "If-Match"]);
        let types: Vec<&str> =
            told["parameters"].as_array().unwrap().iter().filter_map(|one| one["schema"]["type"].as_str()).collect();
        assert_eq!(types, ["string", "string", "string", "boolean", "integer", "string"]);
        assert_eq!(told["requestBody"]["content"]["application/json"]["schema"]["type"], "integer");
        assert_eq!(told["responses"]["200"]["content"]["application/json"]["schema"]["items"]["type"], "string");
        let schema = |status: &str| &told["responses"][status]["content"]["application/json"]["schema"];
        let form = json!({"$ref": "#/components/schemas/ApiError"});
        for status in ["400", "404", "413", "415", "422", "503"] {
            assert_eq!(schema(status), &form, "{status}");
        }
        assert_eq!(schema("412")["allOf"][0], form);
        assert!(told["responses"].get("405").is_none() && told["responses"]["503"]["headers"].is_object());
        let several = told["responses"]["400"]["description"].as_str().unwrap();
        assert!(several.contains("`bad_json`: ") && several.contains("; `bad_query`: "), "{several}");
        assert_eq!(told["responses"]["default"], json!({"$ref": "#/components/responses/Refused"}));
        assert_eq!(document["components"]["responses"]["Refused"]["content"]["application/json"]["schema"], form);
    }
}
