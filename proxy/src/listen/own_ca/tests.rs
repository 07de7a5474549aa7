use super::*;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{ServerName, UnixTime};
use std::sync::Arc;
use tempfile::TempDir;

/// 2026-01-01.
const NOW: WallMillis = WallMillis(1_767_225_600_000);

fn names(hosts: &[&str]) -> Names {
    Names::new(hosts.iter().copied(), ["0.0.0.0:8443".parse().unwrap()])
}

fn contents(paths: &Paths) -> [Vec<u8>; 4] {
    [&paths.ca_certificate, &paths.ca_key, &paths.certificate, &paths.key].map(|path| fs::read(path).unwrap())
}

/// What a client says that trusts `ca.crt` and asks for `host`.
fn client_says(paths: &Paths, host: &str, now: WallMillis) -> Result<(), String> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(chain(&paths.ca_certificate).unwrap().remove(0)).unwrap();
    let verifier =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::new(default_provider())).build().unwrap();
    let chain = chain(&paths.certificate).unwrap();
    let (leaf, rest) = chain.split_first().unwrap();
    let host = ServerName::try_from(host.to_owned()).unwrap();
    let now = UnixTime::since_unix_epoch(Duration::from_secs(now.seconds()));
    verifier.verify_server_cert(leaf, rest, &host, &[], now).map(|_| ()).map_err(|error| error.to_string())
}

#[test]
fn a_client_that_trusts_the_ca_takes_the_leaf_for_its_names_only() {
    let dir = TempDir::new().unwrap();
    let paths = ensure(dir.path(), &names(&["box.example", "192.0.2.7"]), NOW).unwrap();
    assert!(super::super::tls::load(&paths.certificate, &paths.key, NOW).is_ok());
    for host in ["localhost", "box.example", "127.0.0.1", "::1", "192.0.2.7"] {
        assert_eq!(client_says(&paths, host, NOW), Ok(()), "{host}");
    }
    assert!(client_says(&paths, "other.example", NOW).is_err());
    assert!(client_says(&paths, "192.0.2.8", NOW).is_err());
}

#[test]
fn keys_are_for_the_owner_only() {
    let dir = TempDir::new().unwrap();
    let paths = ensure(dir.path(), &names(&[]), NOW).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir.path().join("tls")), 0o700);
    assert_eq!((mode(&paths.key), mode(&paths.ca_key)), (0o600, 0o600));
    assert_eq!(mode(&paths.ca_certificate), 0o644);
}

#[test]
fn nothing_is_made_again_without_a_reason() {
    let dir = TempDir::new().unwrap();
    let first = contents(&ensure(dir.path(), &names(&["a"]), NOW).unwrap());
    let second = contents(&ensure(dir.path(), &names(&["a"]), NOW.plus(DAY * 300)).unwrap());
    assert_eq!(first, second);
}

#[test]
fn the_leaf_is_renewed_under_thirty_days_and_the_ca_stays() {
    let dir = TempDir::new().unwrap();
    let first = contents(&ensure(dir.path(), &names(&[]), NOW).unwrap());
    let early = contents(&ensure(dir.path(), &names(&[]), NOW.plus(DAY * 366)).unwrap());
    assert_eq!(first, early);
    let late = NOW.plus(DAY * 367);
    let paths = ensure(dir.path(), &names(&[]), late).unwrap();
    let renewed = contents(&paths);
    assert_eq!(first[..2], renewed[..2]);
    assert_ne!(first[2], renewed[2]);
    assert_ne!(first[3], renewed[3]);
    assert_eq!(client_says(&paths, "localhost", late.plus(DAY * 300)), Ok(()));
}

#[test]
fn a_new_private_address_renews_the_leaf_and_a_new_name_the_ca_too() {
    let dir = TempDir::new().unwrap();
    let first = contents(&ensure(dir.path(), &names(&[]), NOW).unwrap());
    let private = contents(&ensure(dir.path(), &names(&["10.1.2.3"]), NOW).unwrap());
    assert_eq!(first[0], private[0]);
    assert_ne!(first[2], private[2]);
    let paths = ensure(dir.path(), &names(&["new.example"]), NOW).unwrap();
    assert_ne!(private[0], contents(&paths)[0]);
    assert_eq!(client_says(&paths, "new.example", NOW), Ok(()));
}

#[test]
fn a_stolen_ca_key_cannot_speak_for_other_sites() {
    let dir = TempDir::new().unwrap();
    let paths = ensure(dir.path(), &names(&[]), NOW).unwrap();
    let ca = kept_ca(&paths, &names(&[]), NOW).unwrap().unwrap();
    make_leaf(&paths, &ca, &names(&["bank.example"]), NOW).unwrap();
    assert!(client_says(&paths, "bank.example", NOW).is_err());
    assert!(client_says(&paths, "localhost", NOW).is_err(), "a leaf with one name too many is refused whole");
}

#[test]
fn a_lost_leaf_or_half_a_ca_is_made_again_and_a_broken_ca_is_left_for_a_person() {
    let dir = TempDir::new().unwrap();
    let paths = ensure(dir.path(), &names(&[]), NOW).unwrap();
    let before = contents(&paths);
    fs::write(&paths.certificate, "cut").unwrap();
    let after = contents(&ensure(dir.path(), &names(&[]), NOW).unwrap());
    assert_eq!(before[..2], after[..2]);
    // A stop between the two files of a new CA: a new key beside the old certificate.
    fs::write(&paths.ca_key, KeyPair::generate().unwrap().serialize_pem()).unwrap();
    let after = ensure(dir.path(), &names(&[]), NOW).unwrap();
    assert_ne!(before[0], contents(&after)[0]);
    assert_eq!(client_says(&after, "localhost", NOW), Ok(()));
    fs::write(&paths.ca_key, "not a key").unwrap();
    let error = ensure(dir.path(), &names(&[]), NOW).unwrap_err();
    assert!(matches!(&error, TlsError::NoKey(path) if path.ends_with("ca.key")), "{error}");
    assert_eq!(fs::read(&paths.ca_key).unwrap(), b"not a key");
}

#[test]
fn names_leave_out_what_no_certificate_can_hold() {
    let names = Names::new(
        ["My-Box", "my_box", "a b", "[::1]", ""],
        ["192.0.2.1:1".parse().unwrap(), "[::]:1".parse().unwrap()],
    );
    assert_eq!(names.dns, BTreeSet::from(["localhost".to_owned(), "my-box".to_owned()]));
    assert!(names.addresses.contains(&"192.0.2.1".parse::<IpAddr>().unwrap()));
    assert_eq!(names.addresses.len(), 3);
}
