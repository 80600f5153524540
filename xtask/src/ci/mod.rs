//! `cargo xtask ci`: every check as a step. All of them run even if one fails; the exit code tells.
//!
//! * [`steps`]: what they are. [`directions`], [`tidy`]: the rules that are ours.

mod directions;
mod steps;
mod tidy;
mod tidy_markdown;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::bail;

use steps::{Done, STEPS, Step};
pub(crate) use steps::{aws_python, moto_program, s3s_fs};

/// How a step ended.
enum End {
    Passed,
    /// Could not be done here, and why.
    Skipped(String),
    /// Why was printed when it happened.
    Failed,
}

/// Runs the steps that `args` ask for: all, or those after `--step`.
///
/// # Errors
/// When the arguments make no sense.
pub(crate) fn run(args: &[&str]) -> anyhow::Result<ExitCode> {
    if args == ["--list"] {
        print!("{}", list());
        return Ok(ExitCode::SUCCESS);
    }
    let wanted = wanted(args)?;
    let begun = Instant::now();
    let mut ends: Vec<(&Step, End, Duration)> = Vec::new();
    for step in wanted {
        println!("\n== {}: {}", step.name, step.what);
        let begun = Instant::now();
        let end = match (step.run)() {
            Ok(Done::Passed) => End::Passed,
            Ok(Done::Skipped(why)) => {
                println!("skipped: {why}");
                End::Skipped(why)
            }
            Err(error) => {
                println!("FAILED: {error:#}\n  again: cargo xtask ci --step {}", step.name);
                End::Failed
            }
        };
        ends.push((step, end, begun.elapsed()));
    }
    println!("\n{}", table(&ends, begun.elapsed()));
    let is_green = ends.iter().all(|(_, end, _)| !matches!(end, End::Failed));
    Ok(if is_green { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn wanted(args: &[&str]) -> anyhow::Result<Vec<&'static Step>> {
    let mut steps = Vec::new();
    let mut rest = args;
    while let Some((first, after)) = rest.split_first() {
        let (name, after) = match (first.strip_prefix("--step="), after.split_first()) {
            (Some(name), _) => (name, after),
            (None, Some((name, after))) if *first == "--step" => (*name, after),
            (None, _) => bail!("`{first}` makes no sense here: cargo xtask ci [--step NAME]… | --list"),
        };
        let Some(step) = STEPS.iter().find(|step| step.name == name) else {
            bail!("there is no step `{name}`:\n{}", list());
        };
        steps.push(step);
        rest = after;
    }
    if steps.is_empty() {
        steps.extend(STEPS.iter().filter(|step| step.by_default));
    }
    Ok(steps)
}

fn list() -> String {
    STEPS
        .iter()
        .map(|step| {
            let note = if step.by_default { "" } else { " (only when asked for)" };
            format!("{:12} {}{note}\n", step.name, step.what)
        })
        .collect()
}

fn table(ends: &[(&Step, End, Duration)], total: Duration) -> String {
    let row = |name: &str, time: Duration, text: &str| {
        let seconds = time.as_secs_f64();
        format!("{name:12} {seconds:8.1} s  {text}\n")
    };
    let mut text = String::new();
    for (step, end, time) in ends {
        let said = match end {
            End::Passed => "ok".to_owned(),
            End::Skipped(why) => format!("skipped: {why}"),
            End::Failed => format!("FAILED, again: cargo xtask ci --step {}", step.name),
        };
        text += &row(step.name, *time, &said);
    }
    let failed = ends.iter().filter(|(_, end, _)| matches!(end, End::Failed)).count();
    let said =
        if failed == 0 { "all green".to_owned() } else { format!("{failed} of {} failed", ends.len()) };
    text + &row("total", total, &said)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(args: &[&str]) -> Vec<&'static str> {
        wanted(args).expect("sensible").iter().map(|step| step.name).collect()
    }

    #[test]
    fn steps_are_chosen_by_name_and_in_the_order_given() {
        assert_eq!(names(&["--step", "tidy", "--step=fmt"]), ["tidy", "fmt"]);
        assert!(names(&[]).contains(&"test"));
        assert!(!names(&[]).contains(&"advisories"), "it needs a database that cannot be fetched everywhere");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for args in [&["--step"][..], &["--step", "nonsense"], &["tidy"]] {
            assert!(wanted(args).is_err(), "{args:?}");
        }
    }

    #[test]
    fn one_failure_is_told_with_the_command_that_repeats_it() {
        let ends = [
            (&STEPS[0], End::Passed, Duration::from_secs(1)),
            (&STEPS[1], End::Failed, Duration::from_millis(2_500)),
        ];
        let text = table(&ends, Duration::from_secs(4));
        assert!(text.contains(&format!("again: cargo xtask ci --step {}", STEPS[1].name)), "{text}");
        assert!(text.ends_with("1 of 2 failed\n"), "{text}");
    }
}
