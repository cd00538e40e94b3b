//! `vitrum study`: the runs of a study, and its report.

mod tables;
mod told;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use burn::tensor::Device;
use vitrum::study::{
    Costs, Data, Ended, Plan, Report, Runner, Speed, State, Study, heads, report::words, results,
};

use crate::args::StudyArgs;
use crate::device;
use crate::output;
use crate::signals::Signals;
use crate::talk::Talk;
use told::Told;

/// Exit code after a stop by a signal (`EX_TEMPFAIL` of sysexits.h). The same command goes on.
const STOPPED: u8 = 75;

/// Runs the command.
pub fn run(args: &StudyArgs, talk: Talk) -> Result<ExitCode> {
    if args.list {
        return tables::heads(&heads()?, args.format).map(|()| ExitCode::SUCCESS);
    }
    let name = args.study.as_deref().unwrap_or_default();
    let mut study = Study::open(name)?;
    args.set.iter().try_for_each(|(key, value)| study.replace(key, value))?;
    let plan = Plan::of(study)?;
    let output = args.output.clone().unwrap_or_else(|| PathBuf::from("studies").join(&plan.study.name));
    if args.report_only {
        return report(args, &plan, &output, talk).map(|()| ExitCode::SUCCESS);
    }
    let device = device::named(&device_of(&plan)?, args.threads)?;
    let mut data = Data::default();
    let mut costs = Costs::count(&plan, &mut data)?;
    let mut chosen = plan.chosen(&args.only)?;
    if let Some(shard) = args.shard {
        chosen = shard.of(&plan, &chosen, &costs.comparable());
    }
    if chosen.is_empty() {
        talk.say("no run is left for this part");
        return Ok(ExitCode::SUCCESS);
    }
    let signals = Signals::install().context("listening to signals")?;
    let counted = costs.clone();
    let runner = Runner {
        plan: &plan,
        chosen: &chosen,
        output: output.clone(),
        costs: &counted,
        device: device.clone(),
        offline: args.offline,
        command: std::env::args().collect(),
        requests: &signals,
    };
    let states = runner.states(&mut data)?;
    let left: BTreeSet<usize> =
        chosen.iter().copied().filter(|index| !matches!(states[index], State::Done(..))).collect();
    find_speed(args, &plan, &left, &mut data, &mut costs, &device, talk)?;
    let total = tables::Total::of(&plan, &costs, &chosen, &left);
    if args.dry_run {
        tables::costs(&plan, &costs, &chosen, &states, args.format)?;
        talk.say(&total);
        return Ok(ExitCode::SUCCESS);
    }
    talk.say(&total);
    let mut told = Told::new(&plan, talk, args.log_format);
    let ended = runner.run(&mut data, &mut told)?;
    if let Ended::Stopped(run) = &ended {
        let what = match run {
            Some((id, checkpoint)) => format!("stopped in run {id}; saved {}", checkpoint.display()),
            None => "stopped between two runs".into(),
        };
        talk.say(format_args!("{what}; the same command goes on"));
        return Ok(ExitCode::from(STOPPED));
    }
    let reported = report(args, &plan, &output, talk);
    let Ended::Failed(runs) = ended else { return reported.map(|()| ExitCode::SUCCESS) };
    // Without a single result the failures say more than a report that cannot be.
    bail!(
        "{} failed or could not begin: {}\nhint: the same command tries again; finished runs are kept",
        words::counted(runs.len(), "run"),
        runs.join(", ")
    )
}

/// The device that all runs ask for.
fn device_of(plan: &Plan) -> Result<String> {
    let mut devices = plan.runs.iter().map(|run| run.recipe.device.as_str());
    let first = devices.next().unwrap_or("auto");
    match devices.find(|other| *other != first) {
        Some(other) => bail!(
            "the runs ask for the devices {first} and {other}\nhint: --set device=NAME gives all of them one"
        ),
        None => Ok(first.into()),
    }
}

fn find_speed(
    args: &StudyArgs,
    plan: &Plan,
    left: &BTreeSet<usize>,
    data: &mut Data,
    costs: &mut Costs,
    device: &Device,
    talk: Talk,
) -> Result<()> {
    let speed = if args.no_measure { Speed::guessed() } else { Speed::Measured };
    let mut told = |run: &vitrum::study::PlannedRun| talk.detail(1, format_args!("measuring {}", run.id));
    Ok(costs.find_speed(plan, left, data, speed, (device, args.offline), &mut told)?)
}

/// Writes the report, and prints its numbers.
fn report(args: &StudyArgs, plan: &Plan, folder: &std::path::Path, talk: Talk) -> Result<()> {
    let found = results(plan, folder)?;
    if found.is_empty() {
        bail!("{}: no finished run of the study {}", folder.display(), plan.study.name);
    }
    let report = Report::of(plan, &found);
    report.write(folder)?;
    match args.format {
        crate::args::Format::Json => output::bytes(vitrum::study::report::tables::json(&report).as_bytes())?,
        crate::args::Format::Csv => output::bytes(vitrum::study::report::tables::csv(&report).as_bytes())?,
        crate::args::Format::Text => tables::report(&report)?,
    }
    talk.say(words::progress(&report));
    talk.say(format_args!("report  {}", folder.join("report.html").display()));
    Ok(())
}
