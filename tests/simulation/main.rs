//! `make simulate`: the scheduler of the gateway beside FIFO, round robin and least connections, in the scenes of `scenes.rs`, as tables in Markdown. With a folder as its argument it writes the tables
//! into the page there, between its marks, and draws the plots.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a simulation is a test: a failure has to end it, with the place where it happened"
)]

mod contenders;
mod measures;
mod plot;
mod random;
mod run;
mod scenes;
mod world;

use contenders::Kind;
use measures::{mean, percentile, waits};
use plot::{Lines, bars};
use scenes::{Flood, Result, Scene, play, play_flood, scenes};
use std::fmt::Write as _;
use std::path::Path;
use world::{LIGHT, Plan, flood};

/// Seeds of each scene.
const SEEDS: [u64; 5] = [1, 2, 3, 4, 5];
/// Fleets that are flooded.
const FLOODED: [usize; 4] = [1, 2, 4, 8];
/// Between these lines of the page stand the tables.
const MARKS: (&str, &str) = ("<!-- tables: make simulate -->", "<!-- end of tables -->");

/// What is shown of a scene.
struct Measure {
    title: &'static str,
    goal: &'static str,
    of: fn(&Result) -> f64,
    places: usize,
    /// Less is better: the worst is the largest.
    less: bool,
}

const MEASURES: [Measure; 6] = [
    Measure {
        title: "Jain's index under overload",
        goal: "Service by entitlement; 1 is even. Goal: at least 0.98.",
        of: |result| result.jain,
        places: 3,
        less: false,
    },
    Measure {
        title: "Switches of models for each hundred jobs, under overload",
        goal: "Goal: at most a fifth of those of least connections.",
        of: |result| result.switches,
        places: 1,
        less: true,
    },
    Measure {
        title: "Makespan under overload",
        goal: "The time for everything by the least time in which it can be done without loading any model. Goal: at most 1.1.",
        of: |result| result.makespan,
        places: 3,
        less: true,
    },
    Measure {
        title: "Wait when there is room: 95 of 100 jobs, seconds at most",
        goal: "Jobs for seven tenths of what the fleet can do.",
        of: |result| result.p95,
        places: 0,
        less: true,
    },
    Measure {
        title: "Wait when there is room: mean, seconds",
        goal: "The same jobs.",
        of: |result| result.mean,
        places: 0,
        less: true,
    },
    Measure {
        title: "Wait under overload of the half of tenants that asks for least: 95 of 100 jobs, seconds at most",
        goal: "Jobs for one and a half times what the fleet can do.",
        of: |result| result.light,
        places: 0,
        less: true,
    },
];

/// What every scheduler made of a scene, by seed.
struct Played {
    name: &'static str,
    results: Vec<Vec<Result>>,
}

impl Played {
    fn new(scene: &Scene) -> Self {
        let of = |kind: Kind| SEEDS.iter().map(|seed| play(kind, &scene.plan, *seed)).collect();
        Self { name: scene.name, results: Kind::ALL.into_iter().map(of).collect() }
    }

    fn means(&self, measure: &Measure) -> Vec<f64> {
        self.results.iter().map(|results| mean(results.iter().map(measure.of))).collect()
    }

    fn worst(&self, measure: &Measure) -> f64 {
        let values = self.results[0].iter().map(measure.of);
        if measure.less { values.fold(f64::MIN, f64::max) } else { values.fold(f64::MAX, f64::min) }
    }
}

fn main() {
    let folder = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let played: Vec<Played> = scenes(1.0).iter().map(Played::new).collect();
    let tables = tables(&played);
    println!("{tables}");
    if let Some(folder) = folder {
        write(Path::new(&folder), &tables, &played);
    }
}

fn heading() -> String {
    let names: Vec<&str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
    format!("| | {} |\n|---|{}\n", names.join(" | "), "--:|".repeat(names.len()))
}

fn tables(played: &[Played]) -> String {
    let mut text = String::new();
    for measure in &MEASURES {
        let _ = write!(text, "\n### {}\n\n{}\n\n{}", measure.title, measure.goal, heading());
        for scene in played {
            let places = measure.places;
            let values: Vec<String> = scene.means(measure).iter().map(|value| format!("{value:.places$}")).collect();
            let (ours, others) = values.split_first().expect("ours is the first");
            let worst = scene.worst(measure);
            let _ = writeln!(text, "| {} | **{ours}** ({worst:.places$}) | {} |", scene.name, others.join(" | "));
        }
    }
    text + &floods()
}

fn floods() -> String {
    let mut text = String::from(
        "\n### One job a minute beside 500 at once: the longest wait, seconds\n\nIn brackets: how much longer than until each GPU was done with the one job that it ran, jobs that waited for another of their tenant left out. Goal: no longer.\n\n",
    );
    text.push_str(&heading());
    for gpus in FLOODED {
        let cells = Kind::ALL.map(|kind| {
            let floods: Vec<Flood> = SEEDS.iter().map(|seed| play_flood(kind, gpus, *seed)).collect();
            let longest = floods.iter().map(|flood| flood.longest).fold(0.0, f64::max);
            let beyond = floods.iter().map(|flood| flood.beyond).fold(0.0, f64::max);
            if kind == Kind::Ours { format!("**{longest:.0}** ({beyond:.0})") } else { format!("{longest:.0}") }
        });
        let plural = if gpus == 1 { "" } else { "s" };
        let _ = writeln!(text, "| {gpus} GPU{plural} | {} |", cells.join(" | "));
    }
    text
}

fn write(folder: &Path, tables: &str, played: &[Played]) {
    let page = folder.join("scheduling.md");
    let text = std::fs::read_to_string(&page).expect("the page is there");
    let (before, rest) = text.split_once(MARKS.0).expect("the first mark");
    let (_, after) = rest.split_once(MARKS.1).expect("the second mark");
    std::fs::write(&page, format!("{before}{}\n{tables}\n{}{after}", MARKS.0, MARKS.1)).expect("the page is written");
    let save = |name: &str, svg: String| {
        std::fs::write(folder.join(format!("scheduling-{name}.svg")), svg).expect("the plot is written");
    };
    let names: Vec<&str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
    let rows = |measure: &Measure| -> Vec<(&str, Vec<f64>)> {
        played.iter().map(|scene| (scene.name, scene.means(measure))).collect()
    };
    let [fair, switches, makespan, ..] = &MEASURES;
    save("fairness", bars(fair.title, "1 is even; further right is better", &names, &rows(fair), 1.0));
    save("switches", bars(switches.title, "further left is better", &names, &rows(switches), 80.0));
    save(
        "makespan",
        bars(makespan.title, "1 is the least that is possible; further left is better", &names, &rows(makespan), 3.2),
    );
    save("waits", calm_waits(&names));
    save("flood", flooded_waits(&names));
}

/// How many jobs have begun after so many seconds, at seven tenths of what the fleet can do.
fn calm_waits(names: &[&str]) -> String {
    let world = Plan { load: 0.7, own_models: false, ..Plan::default() }.world(1);
    let lines = Kind::ALL.map(|kind| spread(&waits(&run::run(kind, &world, None))));
    Lines {
        title: "How long jobs wait when there is room",
        note: "4 GPUs, 100 tenants, any model, jobs for seven tenths of what the fleet can do; further left is better",
        names,
        axes: ("seconds waited, at most", "per cent of jobs"),
        lines: lines.into(),
        from: 0.1,
        to: 10_000.0,
        most: 100.0,
    }
    .draw()
}

/// The same for the tenant that sends one job a minute.
fn flooded_waits(names: &[&str]) -> String {
    let lines = Kind::ALL.map(|kind| {
        let mut light = Vec::new();
        for seed in SEEDS {
            let world = flood(4, seed);
            let outcome = run::run(kind, &world, None);
            let jobs = outcome.fates.iter().zip(&world.jobs).filter(|(_, job)| job.tenant == LIGHT);
            light.extend(jobs.filter_map(|(fate, _)| fate.waited()));
        }
        light.sort_by(f64::total_cmp);
        spread(&light)
    });
    Lines {
        title: "How long a tenant with one job a minute waits beside another's 500",
        note: "4 GPUs, five floods; further left is better",
        names,
        axes: ("seconds waited, at most", "per cent of its jobs"),
        lines: lines.into(),
        from: 0.1,
        to: 10_000.0,
        most: 100.0,
    }
    .draw()
}

/// What so many of a hundred do not exceed, for each of a hundred.
fn spread(sorted: &[f64]) -> Vec<(f64, f64)> {
    (0..=100).map(|percent| (percentile(sorted, percent), percent as f64)).collect()
}
