//! A login at a real identity provider: `oidc-provider` of npm, which is certified for OpenID Connect (`make oidc-tools` installs it, `tests/oidc/provider.mjs` starts it).

use comfygate_tests::deadline::done;
use comfygate_tests::gateway::{Addresses, binary, free_address};
use comfygate_tests::oidc::{Sent, pairs};
use comfygate_tests::tokens::now;
use comfygate_tests::{Browser, Gateway, eventually, skipped};
use http::Method;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const SECRET: &str = "only-for-tests-0123456789";
const START: &str = "/gate/oidc/real?next=/queue";

/// Where `make oidc-tools` puts it: beside what cargo builds.
fn packages() -> Option<PathBuf> {
    let directory = binary().parent()?.parent()?.join("oidc");
    directory.join("versions").exists().then_some(directory)
}

struct Provider {
    child: Child,
    /// Kept open: it may say more, and would end of a pipe that nobody reads.
    _said: BufReader<ChildStdout>,
}

impl Drop for Provider {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Provider {
    /// What it complains of is in the test's own output.
    fn start(packages: &Path, address: SocketAddr, gateway: &str, further: &[&str]) -> Provider {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("oidc/provider.mjs");
        let mut command = Command::new("node");
        command.arg(script).arg("--packages").arg(packages).args(["--port", &address.port().to_string()]);
        command.args(["--client-id", "gate", "--client-secret", SECRET, "--user", "ada:acme", "--user", "bob:bravo"]);
        command.args(["--redirect-uri", &format!("{gateway}/gate/oidc/callback")]);
        command.args(["--post-logout-uri", &format!("{gateway}/gate/logout")]).args(further);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        let address_said: Value = serde_json::from_str(&line).expect("the provider says where it listens");
        assert_eq!(address_said["port"], address.port());
        Provider { child, _said: said }
    }
}

/// What a browser keeps of a provider: cookies by name.
#[derive(Default)]
struct Jar(BTreeMap<String, String>);

struct Page {
    status: u16,
    location: Option<String>,
    body: String,
}

impl Jar {
    /// One request to the provider. HTTP/1.0: its answer ends with the connection.
    async fn ask(&mut self, at: SocketAddr, method: &str, target: &str, form: &str) -> Page {
        let target = target.strip_prefix(&format!("http://{at}")).unwrap_or(target);
        let cookies: Vec<String> = self.0.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let head = format!(
            "{method} {target} HTTP/1.0\r\nhost: {at}\r\ncookie: {}\r\ncontent-type: application/x-www-form-urlencoded\r\ncontent-length: {}\r\n\r\n{form}",
            cookies.join("; "),
            form.len()
        );
        let mut stream = TcpStream::connect(at).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        done(target, stream.read_to_string(&mut answer)).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let headers = |wanted: &str| -> Vec<String> {
            let pairs = head.lines().filter_map(|line| line.split_once(": "));
            pairs.filter(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.to_owned()).collect()
        };
        for cookie in headers("set-cookie") {
            let (name, value) = cookie.split(';').next().unwrap().split_once('=').unwrap();
            self.0.insert(name.to_owned(), value.to_owned());
        }
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Page { status, location: headers("location").pop(), body: body.to_owned() }
    }

    /// From the address that the gateway sent the browser to, through the form, to the address that leads back; as a path of the gateway.
    async fn log_in(&mut self, at: SocketAddr, url: &str, name: &str) -> String {
        let mut page = self.ask(at, "GET", url, "").await;
        for _ in 0..6 {
            let next = match page.location.take() {
                Some(back) if back.contains("/gate/oidc/callback") => return path_of(&back),
                Some(next) => ("GET", next, String::new()),
                None => {
                    let action = page.body.split("action=\"").nth(1).expect("a form").split('"').next().unwrap();
                    ("POST", action.to_owned(), format!("prompt=login&login={name}&password=any"))
                }
            };
            page = self.ask(at, next.0, &next.1, &next.2).await;
        }
        panic!("the provider leads nowhere: {} {}", page.status, page.body);
    }
}

fn path_of(url: &str) -> String {
    format!("/{}", url.splitn(4, '/').nth(3).unwrap())
}

fn url_of(sent: &Sent) -> String {
    let escaped = |text: &String| -> String {
        let letter =
            |byte: u8| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") };
        text.bytes().map(letter).collect()
    };
    let query: Vec<String> = sent.asked.iter().map(|(key, value)| format!("{key}={}", escaped(value))).collect();
    format!("{}?{}", sent.to, query.join("&"))
}

/// A whole login in a fresh browser: its session's cookie.
async fn logged_in(gateway: &Gateway, jar: &mut Jar, at: SocketAddr, name: &str) -> String {
    let sent = Sent::from(&gateway.stranger(), START).await;
    let back = jar.log_in(at, &url_of(&sent), name).await;
    let answer = sent.get(&back).await.expect(303);
    assert_eq!(answer.header("location"), Some("/queue"));
    assert_eq!(sent.get(&back).await.status, 400, "an answer is good once");
    answer.header("set-cookie").unwrap().split(';').next().unwrap().to_owned()
}

async fn me(gateway: &Gateway, cookie: &str) -> comfygate_tests::Response {
    Browser::with_cookie(&gateway.stranger(), cookie.to_owned()).page().get("/gate/me").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_log_in_at_a_real_provider_are_renewed_revoked_and_logged_out() {
    let Some(packages) = packages() else {
        return skipped("a real identity provider: oidc-provider of npm is not installed (make oidc-tools)");
    };
    let at = free_address();
    let table = format!(
        "[[oidc]]\nid = \"real\"\nissuer = \"http://{at}\"\nclient_id = \"gate\"\nclient_secret = \"file:oidc.secret\"\ntenant_claim = \"org_id\"\n"
    );
    let gateway = Gateway::builder().stand_ins(1).file("oidc.secret", SECRET).gateway_toml(&table).start().await;
    let Addresses { https, .. } = gateway.addresses();
    let public = format!("https://localhost:{}", https.port());
    let provider = Provider::start(&packages, at, &public, &["--token-seconds", "10"]);
    let mut jar = Jar::default();

    let cookie = logged_in(&gateway, &mut jar, at, "ada").await;
    let seen = me(&gateway, &cookie).await.expect(200).json();
    assert_eq!((&seen["tenant"], &seen["user"]), (&json!("acme"), &json!("ada")), "{seen}");
    let others = logged_in(&gateway, &mut Jar::default(), at, "bob").await;
    let seen = me(&gateway, &others).await.expect(200).json();
    assert_eq!((&seen["tenant"], &seen["user"]), (&json!("bravo"), &json!("bob")), "{seen}");

    // What the provider answered is not believed for another login, state, provider or nonce.
    let sent = Sent::from(&gateway.stranger(), START).await;
    let back = jar.log_in(at, &url_of(&sent), "ada").await;
    let state = &sent.asked["state"];
    assert_eq!(sent.get(&back.replace(state.as_str(), &"0".repeat(64))).await.status, 400);
    let (path, query) = back.split_once('?').unwrap();
    let code = &pairs(query)["code"];
    let elsewhere = format!("{path}?code={code}&state={state}&iss=https://evil.example");
    assert_eq!(sent.get(&elsewhere).await.status, 403);
    let mut changed = Sent::from(&gateway.stranger(), START).await;
    changed.asked.insert("nonce".to_owned(), "another".to_owned());
    let back = jar.log_in(at, &url_of(&changed), "ada").await;
    assert_eq!(changed.get(&back).await.status, 403);

    // Its tokens end after ten seconds: they are renewed, and rotated, again and again.
    eventually("both are renewed twice", || async {
        me(&gateway, &cookie).await.expect(200);
        me(&gateway, &others).await.expect(200);
        let renewals: u32 = Jar::default().ask(at, "GET", "/test/renewals", "").await.body.parse().unwrap();
        (renewals >= 4).then_some(())
    })
    .await;
    assert_eq!(Jar::default().ask(at, "POST", "/test/revoke", "").await.status, 204);
    eventually("the grant is gone", || async { (me(&gateway, &cookie).await.status == 401).then_some(()) }).await;
    let line = gateway.audited("the end", |line| line["event"] == "session_ended").await;
    assert!(line["reason"].as_str().unwrap().contains("invalid_grant"), "{line}");

    // Other keys from now on.
    drop(provider);
    let provider = Provider::start(&packages, at, &public, &["--keys", "two"]);
    let mut jar = Jar::default();
    let cookie = logged_in(&gateway, &mut jar, at, "ada").await;

    let form = [("content-type", "application/x-www-form-urlencoded"), ("sec-fetch-site", "same-origin")];
    let page = Browser::with_cookie(&gateway.stranger(), cookie.clone()).sending(&[]);
    let left = page.call(Method::POST, "/gate/logout", &form, bytes::Bytes::new()).await.expect(200).text();
    let url = left.split("content=\"0;url=").nth(1).unwrap().split('"').next().unwrap().replace("&amp;", "&");
    let asked = jar.ask(at, "GET", &url, "").await;
    assert_eq!(asked.status, 200, "{}", asked.body);
    let xsrf = asked.body.split("name=\"xsrf\" value=\"").nth(1).expect("its question").split('"').next().unwrap();
    let confirmed = jar.ask(at, "POST", "/session/end/confirm", &format!("xsrf={xsrf}&logout=yes")).await;
    assert_eq!(confirmed.location, Some(format!("{public}/gate/logout")), "{}", confirmed.body);
    assert_eq!(me(&gateway, &cookie).await.status, 401);

    // Codes that end with the second after the one that they are made in: it counts whole ones. So nobody can be sure to log in by them, however quick.
    drop(provider);
    let _provider = Provider::start(&packages, at, &public, &["--keys", "two", "--code-seconds", "1"]);
    let late = Sent::from(&gateway.stranger(), START).await;
    let back = Jar::default().log_in(at, &url_of(&late), "ada").await;
    let made_by = now();
    eventually("the code has ended", || async { (now() > made_by).then_some(()) }).await;
    assert_eq!(late.get(&back).await.status, 403, "a code that has ended");
    let refused = |line: &Value| line["reason"].as_str().is_some_and(|reason| reason.contains("`invalid_grant`"));
    gateway.audited("its end", |line| line["route"] == "/gate/oidc/callback" && refused(line)).await;
}
