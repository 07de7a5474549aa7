use super::*;
use crate::clock::WallMillis;
use crate::listen::ClientAddr;
use std::collections::HashMap;

const FREE: u32 = 10;

fn clock() -> Clock {
    Clock::turned_by_hand(WallMillis(0))
}

fn guesses(clock: &Clock) -> Guesses {
    Guesses::new(FREE, clock.clone())
}

fn at(text: &str) -> AddrGroup {
    ClientAddr::of_ip(text.parse().unwrap()).group()
}

/// The n-th of many addresses that have nothing in common.
fn nth(n: u32) -> AddrGroup {
    ClientAddr::of_ip(std::net::IpAddr::V4((0x0a00_0000 + n).into())).group()
}

fn key(id: &str) -> Guess {
    Guess { kind: Kind::Key, account: Some(Account::Key(id.parse().unwrap())) }
}

const TOKEN: Guess = Guess { kind: Kind::Token, account: None };

/// Fails, waiting as long as it is told before each try; the waits.
fn patient(guesses: &Guesses, clock: &Clock, group: AddrGroup, user: &str, times: usize) -> Vec<u64> {
    let mut waits = Vec::new();
    for _ in 0..times {
        let attempt = match guesses.password(group, user) {
            Ok(attempt) => attempt,
            Err(blocked) => {
                waits.push(blocked.retry_after.as_secs());
                clock.turn(blocked.retry_after);
                guesses.password(group, user).expect("the wait is over")
            }
        };
        attempt.failed();
    }
    waits
}

#[test]
fn ten_failures_are_free_and_then_each_wait_is_twice_as_long_up_to_a_quarter_of_an_hour() {
    let clock = clock();
    let guesses = guesses(&clock);
    assert_eq!(patient(&guesses, &clock, nth(1), "ann", 10), [0; 0], "just inside");
    assert_eq!(patient(&guesses, &clock, nth(1), "ann", 2), [1], "just outside");
    // What is forgotten meanwhile slows the growth.
    let mut fast = Vec::new();
    for n in 1..=40 {
        let one = self::guesses(&clock);
        for _ in 0..FREE + n {
            // As if all had been sent at once and checked one by one after the wait.
            let keys = one.keys(nth(1), &Guess { kind: Kind::Password, account: Some(Account::User("ann".into())) });
            let now = one.now();
            one.pairs.change(keys.pair, keys.pair, now, |counted| counted.until = 0);
            one.count(&keys, now, 0.0).unwrap();
        }
        fast.push(one.password(nth(1), "ann").unwrap_err().retry_after.as_secs());
    }
    assert_eq!(fast[..11], [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900]);
    assert!(fast[11..].iter().all(|wait| *wait == 900));
}

#[test]
fn the_wait_ends_at_its_last_millisecond() {
    let clock = clock();
    let guesses = guesses(&clock);
    for _ in 0..=FREE {
        guesses.failed(nth(1), &TOKEN).unwrap();
    }
    clock.turn(Duration::from_millis(999));
    let left = guesses.failed(nth(1), &TOKEN).unwrap_err();
    assert_eq!(left, Blocked { by: By::Account, retry_after: Duration::from_millis(1) });
    clock.turn(Duration::from_millis(1));
    assert_eq!(guesses.failed(nth(1), &TOKEN).unwrap().account_delay, Some(Duration::from_secs(2)));
}

#[test]
fn who_keeps_on_trying_waits_no_longer_than_who_comes_back_in_time() {
    let clock = clock();
    let guesses = guesses(&clock);
    for _ in 0..=FREE {
        guesses.failed(nth(1), &TOKEN).unwrap();
    }
    assert!((0..1000).all(|_| guesses.failed(nth(1), &TOKEN).is_err()));
    clock.turn(Duration::from_secs(1));
    assert_eq!(guesses.failed(nth(1), &TOKEN).unwrap().account_delay, Some(Duration::from_secs(2)));
}

#[test]
fn a_patient_guesser_has_as_few_tries_as_the_documentation_says() {
    let tries = |users: &dyn Fn(u32) -> String| {
        let clock = clock();
        let guesses = guesses(&clock);
        let (mut tries, start) = (0, clock.monotonic());
        while clock.monotonic() - start < Duration::from_secs(10 * 3600) {
            match guesses.password(nth(1), &users(tries)) {
                Ok(attempt) => drop(attempt.failed()),
                Err(blocked) => {
                    clock.turn(blocked.retry_after);
                    continue;
                }
            }
            tries += 1;
        }
        tries
    };
    let (one, many) = (tries(&|_| "ann".to_owned()), tries(&|n| format!("user{n}")));
    assert!((70..=90).contains(&one), "at one account in ten hours: {one}");
    assert!((190..=260).contains(&many), "at all accounts in ten hours: {many}");
}

#[test]
fn half_of_it_is_forgotten_in_a_half_life_and_all_of_it_in_a_day() {
    let clock = clock();
    let guesses = guesses(&clock);
    for _ in 0..FREE {
        guesses.password(nth(1), "ann").unwrap().failed();
    }
    clock.turn(HALF_LIFE);
    assert_eq!(patient(&guesses, &clock, nth(1), "ann", 5), [0; 0], "half is free again");
    assert_eq!(patient(&guesses, &clock, nth(1), "ann", 2), [1]);
    clock.turn(Duration::from_secs(24 * 3600));
    assert_eq!(patient(&guesses, &clock, nth(1), "ann", 10), [0; 0]);
}

#[test]
fn a_success_forgets_what_failed_at_this_account_and_gives_its_own_try_back() {
    let clock = clock();
    let guesses = guesses(&clock);
    for _ in 0..20 {
        for _ in 0..FREE - 1 {
            guesses.password(nth(1), "ann").unwrap().failed();
        }
        guesses.password(nth(1), "ann").unwrap().succeeded();
        clock.turn(HALF_LIFE);
    }
    assert_eq!(patient(&guesses, &clock, nth(1), "ann", 10), [0; 0]);
}

#[test]
fn successes_at_an_account_of_ones_own_do_not_pay_for_guesses_at_others() {
    let clock = clock();
    let guesses = guesses(&clock);
    for n in 0..FREE * ADDRESS_FACTOR {
        guesses.password(nth(1), &format!("victim{n}")).unwrap().failed();
        guesses.password(nth(1), "mallory").unwrap().succeeded();
    }
    guesses.password(nth(1), "next").unwrap().failed();
    assert_eq!(guesses.password(nth(1), "another").unwrap_err().by, By::Address);
    // Mallory is known there and goes on; that helps with no other account.
    guesses.password(nth(1), "mallory").unwrap().succeeded();
    assert!(guesses.password(nth(1), "another").is_err());
}

#[test]
fn a_try_that_could_not_be_checked_costs_nothing_and_one_that_is_dropped_does() {
    let clock = clock();
    let guesses = guesses(&clock);
    for _ in 0..100 {
        guesses.password(nth(1), "ann").unwrap().unchecked();
    }
    assert_eq!(patient(&guesses, &clock, nth(1), "ann", 10), [0; 0]);
    guesses.password(nth(2), "bob").unwrap().unchecked();
    for _ in 0..=FREE {
        drop(guesses.password(nth(2), "bob").unwrap());
    }
    assert!(guesses.password(nth(2), "bob").is_err());
}

#[test]
fn a_hundred_tries_at_once_are_counted_as_a_hundred() {
    let clock = clock();
    let guesses = guesses(&clock);
    let checked: Vec<_> = (0..100).filter_map(|_| guesses.password(nth(1), "ann").ok()).collect();
    assert_eq!(checked.len(), FREE as usize + 1);
}

#[test]
fn many_threads_at_once_are_let_in_no_more_often_than_one() {
    let clock = clock();
    let guesses = guesses(&clock);
    let checked = std::thread::scope(|scope| {
        let one = || (0..200).filter(|_| guesses.password(nth(1), "ann").is_ok()).count();
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(one)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>()
    });
    assert_eq!(checked, FREE as usize + 1);
}

#[test]
fn one_password_for_many_names_has_its_address_wait_and_no_other() {
    let clock = clock();
    let guesses = guesses(&clock);
    for n in 0..FREE * ADDRESS_FACTOR {
        guesses.password(nth(1), &format!("user{n}")).expect("just inside").failed();
    }
    guesses.password(nth(1), "one more").unwrap().failed();
    let blocked = guesses.password(nth(1), "just outside").unwrap_err();
    assert_eq!((blocked.by, blocked.retry_after), (By::Address, Duration::from_secs(1)));
    guesses.password(nth(2), "just outside").unwrap().succeeded();
}

#[test]
fn an_ipv6_network_waits_after_ten_times_as_many_failures_and_its_neighbour_does_not() {
    let clock = clock();
    let guesses = guesses(&clock);
    let group = |n: u32| at(&format!("2001:db8:1:{n:x}::1"));
    for n in 0..=FREE * NETWORK_FACTOR {
        guesses.password(group(n), &format!("user{n}")).expect("just inside").failed();
    }
    assert_eq!(guesses.password(group(9999), "new").unwrap_err().by, By::Address, "just outside");
    guesses.password(at("2001:db8:2::1"), "new").unwrap().failed();
    assert_eq!(at("192.0.2.1").network(), None);
}

#[test]
fn a_good_password_is_let_in_from_elsewhere_at_the_first_try_whoever_guesses_at_it() {
    let clock = clock();
    let guesses = guesses(&clock);
    // Ten thousand addresses have guessed at this account.
    for n in 0..10_000 {
        guesses.password(nth(n), "ann").unwrap().failed();
    }
    guesses.password(at("192.0.2.7"), "ann").expect("a stranger's first try is looked at").succeeded();
}

#[test]
fn under_attack_a_stranger_waits_after_its_first_failure_and_a_known_address_does_not() {
    let clock = clock();
    let guesses = guesses(&clock);
    let (home, cafe) = (at("192.0.2.7"), at("198.51.100.7"));
    guesses.password(home, "ann").unwrap().succeeded();
    for n in 0..1_000 {
        guesses.password(nth(n), "ann").unwrap().failed();
    }
    guesses.password(cafe, "ann").unwrap().failed();
    let blocked = guesses.password(cafe, "ann").unwrap_err();
    assert_eq!((blocked.by, blocked.retry_after), (By::Account, DELAY_MAX));
    guesses.password(cafe, "bob").expect("at another account nothing is wrong").unchecked();
    assert_eq!(patient(&guesses, &clock, home, "ann", 10), [0; 0], "home has its free failures");
    assert_eq!(patient(&guesses, &clock, home, "ann", 2), [1], "and waits for its own");
}

#[test]
fn the_pressure_of_others_begins_beyond_what_is_free_for_an_account() {
    let clock = clock();
    let guesses = guesses(&clock);
    for n in 0..FREE * ACCOUNT_FACTOR - 1 {
        guesses.password(nth(n), "ann").unwrap().failed();
    }
    let stranger = nth(1_000_000);
    assert_eq!(guesses.password(stranger, "ann").unwrap().failed().account_delay, None, "just inside");
    // Ten failures of others beyond: as if its own free ones were used up.
    for n in 1_000..1_000 + FREE {
        guesses.password(nth(n), "ann").unwrap().failed();
    }
    let delay = guesses.password(nth(2_000_000), "ann").unwrap().failed().account_delay;
    assert_eq!(delay, Some(Duration::from_secs(1)), "just outside");
}

#[test]
fn a_known_address_is_not_slowed_by_its_neighbours_and_is_forgotten_after_a_month() {
    let clock = clock();
    let guesses = guesses(&clock);
    let office = at("203.0.113.1");
    guesses.password(office, "ann").unwrap().succeeded();
    clock.turn(TRUST - Duration::from_secs(3600));
    let spray = || {
        while let Ok(attempt) = guesses.password(office, &format!("user{}", clock.wall().0)) {
            attempt.failed();
            clock.turn(Duration::from_millis(1));
        }
    };
    spray();
    guesses.password(office, "ann").expect("just inside").unchecked();
    assert!(guesses.password(office, "bob").is_err(), "who never logged in here waits as the guesser does");
    clock.turn(Duration::from_secs(2 * 3600));
    spray();
    assert!(guesses.password(office, "ann").is_err(), "just outside");
}

#[test]
fn failures_of_keys_and_tokens_have_no_password_wait_and_the_other_way_round() {
    let clock = clock();
    let guesses = guesses(&clock);
    let mut n = 0;
    while guesses.failed(nth(1), &key(&format!("{n:012}"))).is_ok() {
        n += 1;
    }
    assert_eq!(n, FREE * ADDRESS_FACTOR + 1, "invented key ids have their address wait");
    guesses.password(nth(1), "ann").unwrap().failed();
    for n in 0.. {
        match guesses.password(nth(2), &format!("user{n}")) {
            Ok(attempt) => drop(attempt.failed()),
            Err(_) => break,
        }
    }
    assert!(guesses.failed(nth(2), &TOKEN).is_ok());
}

#[test]
fn one_bad_script_waits_by_itself_and_leaves_its_office_what_is_free() {
    let clock = clock();
    let guesses = guesses(&clock);
    let script = key("badbadbadbad");
    let mut told = HashMap::new();
    // A day, once a second.
    for _ in 0..24 * 3600 {
        let by = guesses.failed(nth(1), &script).map_or_else(|blocked| blocked.by.name(), |_| "counted");
        *told.entry(by).or_insert(0) += 1;
        clock.turn(Duration::from_secs(1));
    }
    assert_eq!(told.get("address"), None, "{told:?}");
    assert!(told["counted"] < 300, "{told:?}");
    assert!(guesses.failed(nth(1), &key("otherotherot")).is_ok() && guesses.failed(nth(1), &TOKEN).is_ok());
}

#[test]
fn a_failure_says_whether_it_is_the_first_and_what_it_costs() {
    let clock = clock();
    let guesses = guesses(&clock);
    assert!(guesses.failed(nth(1), &TOKEN).unwrap().first);
    assert!(!guesses.failed(nth(1), &key("abcdefghijkl")).unwrap().first);
    clock.turn(3 * HALF_LIFE);
    assert!(guesses.failed(nth(1), &TOKEN).unwrap().first, "after it was forgotten");
    assert!(guesses.failed(nth(2), &TOKEN).unwrap().first);
}

/// Draws the same numbers at every run.
struct Drawn(u64);

impl Drawn {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }
}

/// What a straight reading of the rule remembers: every failure, with its time and weight.
#[derive(Default)]
struct Model {
    pairs: HashMap<(u32, String), Vec<(f64, f64)>>,
    addresses: HashMap<u32, Vec<(f64, f64)>>,
    accounts: HashMap<String, Vec<(f64, f64)>>,
    waits: HashMap<(u32, String), f64>,
    address_waits: HashMap<u32, f64>,
    known: HashMap<(u32, String), f64>,
}

fn faded(failures: &[(f64, f64)], now: f64) -> f64 {
    failures.iter().map(|(then, weight)| weight * (-(now - then) / HALF_LIFE.as_secs_f64()).exp2()).sum()
}

/// One more, up to `most` in all.
fn remember(failures: &mut Vec<(f64, f64)>, now: f64, most: f64) {
    failures.push((now, 1.0));
    if faded(failures, now) > most {
        *failures = vec![(now, most)];
    }
}

fn wait(score: f64, free: u32) -> Option<f64> {
    let step = score.round() - f64::from(free);
    (step >= 1.0).then(|| (step - 1.0).min(10.0).exp2().min(900.0))
}

impl Model {
    /// Whether a password may be checked.
    fn opens(&self, address: u32, user: &str, now: f64) -> bool {
        let pair = (address, user.to_owned());
        let waits = |until: Option<&f64>| until.is_some_and(|until| *until > now);
        let known = self.known.get(&pair).is_some_and(|then| now - then < TRUST.as_secs_f64());
        !waits(self.waits.get(&pair)) && (known || !waits(self.address_waits.get(&address)))
    }

    fn failed(&mut self, address: u32, user: &str, now: f64) {
        let pair = (address, user.to_owned());
        let known = self.known.get(&pair).is_some_and(|then| now - then < TRUST.as_secs_f64());
        let others = faded(self.accounts.get(user).map_or(&[], Vec::as_slice), now).round();
        let pressure = if known { 0.0 } else { (others - f64::from(FREE * ACCOUNT_FACTOR)).max(0.0) };
        let most = |factor| f64::from(FREE * factor) + STEPS_MAX;
        remember(self.pairs.entry(pair.clone()).or_default(), now, most(1));
        remember(self.addresses.entry(address).or_default(), now, most(ADDRESS_FACTOR));
        let of_account = self.accounts.entry(user.to_owned()).or_default();
        remember(of_account, now, most(ACCOUNT_FACTOR) + f64::from(FREE));
        if let Some(wait) = wait(faded(&self.pairs[&pair], now).round() + pressure, FREE) {
            let until = self.waits.entry(pair).or_default();
            *until = until.max(now + wait);
        }
        if let Some(wait) = wait(faded(&self.addresses[&address], now), FREE * ADDRESS_FACTOR) {
            let until = self.address_waits.entry(address).or_default();
            *until = until.max(now + wait);
        }
    }

    fn succeeded(&mut self, address: u32, user: &str, now: f64) {
        let pair = (address, user.to_owned());
        self.pairs.remove(&pair);
        self.waits.remove(&pair);
        self.known.insert(pair, now);
    }
}

#[test]
fn it_decides_as_a_straight_reading_of_the_rule_does() {
    let mut refused = 0;
    for seed in 0..25 {
        let (clock, mut drawn) = (clock(), Drawn(seed));
        let (guesses, mut model) = (guesses(&clock), Model::default());
        let start = clock.monotonic();
        for _ in 0..1500 {
            let (address, user) = (drawn.below(4) as u32, format!("user{}", drawn.below(5)));
            let now = (clock.monotonic() - start).as_secs_f64();
            match guesses.password(nth(address), &user) {
                Ok(attempt) if drawn.below(20) == 0 => {
                    assert!(model.opens(address, &user, now), "seed {seed} at {now}");
                    attempt.succeeded();
                    model.succeeded(address, &user, now);
                }
                Ok(attempt) => {
                    assert!(model.opens(address, &user, now), "seed {seed} at {now}");
                    attempt.failed();
                    model.failed(address, &user, now);
                }
                Err(blocked) => {
                    assert!(!model.opens(address, &user, now), "seed {seed} at {now}: {blocked:?}");
                    refused += 1;
                }
            }
            // Never at the very millisecond at which a wait ends or a count is rounded the other way.
            let longest = [10, 1_000, 20_000][drawn.below(3) as usize];
            clock.turn(Duration::from_millis(1 + 7 * drawn.below(longest)));
        }
    }
    assert!(refused > 4_000, "{refused}");
}

#[test]
fn an_address_without_failures_of_its_own_is_never_refused() {
    let (clock, mut drawn) = (clock(), Drawn(7));
    let guesses = guesses(&clock);
    for _ in 0..50_000 {
        let user = format!("user{}", drawn.below(3));
        if let Ok(attempt) = guesses.password(nth(drawn.below(500) as u32), &user) {
            attempt.failed();
        }
        guesses.password(at("192.0.2.7"), &user).expect("nothing failed there").unchecked();
        clock.turn(Duration::from_millis(drawn.below(500)));
    }
}

#[test]
fn more_failures_never_mean_a_shorter_wait() {
    let mut drawn = Drawn(3);
    for _ in 0..20_000 {
        let (score, pressure) = (drawn.below(400) as f64 / 10.0, drawn.below(30) as f64);
        let cost = |score: f64, pressure: f64| {
            let mut counted = Counted { score, until: 0 };
            add(&mut counted, 0, f64::from(FREE), pressure).delay
        };
        let (more, pressed) = (drawn.below(50) as f64 / 10.0, drawn.below(5) as f64);
        assert!(cost(score, pressure) <= cost(score + more, pressure + pressed), "{score} {pressure}");
    }
}

#[test]
fn a_flood_of_addresses_and_names_takes_a_fixed_amount_of_memory() {
    let clock = clock();
    let guesses = guesses(&clock);
    let tables = [&guesses.pairs, &guesses.addresses, &guesses.accounts, &guesses.trusted];
    assert!(tables.iter().all(|table| table.taken() == 0), "nothing before the first failure");
    for n in 0..400_000 {
        if let Ok(attempt) = guesses.password(nth(n), &format!("user{n}")) {
            if n % 4 == 0 { attempt.succeeded() } else { drop(attempt) }
        }
    }
    for table in tables {
        assert_eq!(table.taken(), table.places());
    }
    let slots: usize = tables.iter().map(|table| table.places()).sum();
    assert!(slots * std::mem::size_of::<[u64; 4]>() <= 6 << 20, "{slots}");
}

#[test]
fn a_flood_of_others_does_not_have_a_guesser_forgotten() {
    let clock = clock();
    let guesses = guesses(&clock);
    let guesser = at("192.0.2.66");
    for _ in 0..FREE + 1 {
        guesses.password(guesser, "ann").unwrap().failed();
    }
    // Three times as many failures as there are places, each of another address at another name.
    for n in 0..3 * u32::try_from(PAIRS_MAX).unwrap() {
        drop(guesses.password(nth(n), &format!("user{n}")));
    }
    assert!(guesses.password(guesser, "ann").is_err());
}

#[test]
fn one_users_many_addresses_push_nobody_elses_known_address_out() {
    let clock = clock();
    let guesses = guesses(&clock);
    let users = 200;
    for n in 0..users {
        guesses.password(nth(n), &format!("user{n}")).unwrap().succeeded();
    }
    for n in 0..50_000 {
        guesses.password(nth(n), "mallory").unwrap().succeeded();
    }
    let known = (0..users).filter(|n| {
        let account = Some(Account::User(format!("user{n}")));
        guesses.is_trusted(&guesses.keys(nth(*n), &Guess { kind: Kind::Password, account }), guesses.now())
    });
    // Those of the one bucket that is Mallory's are gone.
    assert!(known.count() >= users as usize - 2);
}

fn studio() -> ProviderId {
    "studio".parse().unwrap()
}

#[test]
fn codes_that_a_provider_refused_make_their_address_wait_before_it_is_asked_again_and_nobody_else() {
    let clock = clock();
    let guesses = guesses(&clock);
    for _ in 0..FREE {
        guesses.code(nth(1), &studio()).unwrap().failed();
    }
    let noted = guesses.code(nth(1), &studio()).expect("just inside").failed();
    assert_eq!(noted.account_delay, Some(Duration::from_secs(1)));
    let blocked = guesses.code(nth(1), &studio()).expect_err("just outside");
    assert_eq!(blocked.retry_after, Duration::from_secs(1));
    guesses.code(nth(2), &studio()).expect("another address").unchecked();
    guesses.code(nth(1), &"other".parse().unwrap()).expect("another provider").unchecked();
    guesses.password(nth(1), "ann").expect("passwords are counted apart").succeeded();
    assert_eq!(guesses.failed(nth(1), &TOKEN).map(|noted| noted.first), Ok(true), "tokens too");
    clock.turn(Duration::from_secs(1));
    guesses.code(nth(1), &studio()).expect("the wait is over").unchecked();
}

#[test]
fn codes_under_way_count_as_failures_until_they_are_seen_to_be_good() {
    let guesses = guesses(&clock());
    let under_way: Vec<_> = (0..=FREE).map(|_| guesses.code(nth(1), &studio()).expect("just inside")).collect();
    assert!(guesses.code(nth(1), &studio()).is_err(), "just outside");
    under_way.into_iter().rev().for_each(Attempt::unchecked);
    for _ in 0..FREE {
        guesses.code(nth(1), &studio()).expect("nothing is left of them").unchecked();
    }
    // Who gives up while the provider is asked has asked it.
    for _ in 0..=FREE {
        drop(guesses.code(nth(1), &studio()));
    }
    assert!(guesses.code(nth(1), &studio()).is_err());
}
