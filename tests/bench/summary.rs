//! The report: tables per kernel, ratios to the floor, and how far the aims were reached.
//!
//! Called by `client` as its `summary`. Pure but for reading files and printing: every figure comes
//! from `lines`, nothing is assumed. A variant that was not measured shows as "-".

use std::fs;
use std::path::PathBuf;

use anyhow::Context;
use comfy_table::{CellAlignment, Table};
use serde_json::{Value, json};

use crate::lines::{Cell, Measured};

/// The floor first: everything is compared with it.
const VARIANTS: [&str; 4] = ["floor", "goldleaf", "dmsetup", "lvm"];
const OPS: [(&str, &str); 3] = [
    ("create", "create + activate"),
    ("snap", "snapshot, active"),
    ("delete", "deactivate + delete"),
];

/// The driver's calls, and in words.
const LAYERS: [(&str, &str); 8] = [
    ("create", "CreateVolume"),
    ("stage", "  NodeStageVolume, block"),
    ("publish", "  NodePublishVolume, block"),
    ("use", "both"),
    ("unpublish", "  NodeUnpublishVolume"),
    ("unstage", "  NodeUnstageVolume"),
    ("unuse", "both"),
    ("delete", "DeleteVolume"),
];

/// Create + activate may cost this much of floor and own fsyncs together.
const AIM_OF_FLOOR: f64 = 1.15;
/// And must be so many times faster than LVM.
const AIM_OF_LVM: f64 = 10.0;
/// With more volumes beside it may cost this much more than the floor's own growth.
const AIM_OF_GROWTH: f64 = 1.15;

/// What to sum up.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// A heading for all: the machine and the date.
    #[arg(long, default_value = "")]
    heading: String,
    /// Writes every figure here, too.
    #[arg(long)]
    json: Option<PathBuf>,
    /// What `measure` printed, one file a kernel.
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

/// Prints the report.
///
/// # Errors
///
/// A file that cannot be read or that is not all of a measurement, or a JSON file that cannot be
/// written.
pub fn print(options: &Options) -> anyhow::Result<()> {
    let mut kernels = Vec::new();
    println!("Goldleaf bench, {}", options.heading);
    for file in &options.files {
        let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
        let all = Measured::read(&text).with_context(|| file.display().to_string())?;
        print_kernel(&all);
        kernels.push(as_json(&all));
    }
    if let Some(path) = &options.json {
        let all = json!({ "heading": options.heading, "unit": "microseconds", "kernels": kernels });
        fs::write(path, format!("{all:#}\n")).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

fn print_kernel(all: &Measured) {
    println!(
        "\n== {}",
        all.facts
            .get("kernel")
            .map_or("unknown kernel", String::as_str)
    );
    for at_once in all.loads() {
        let median = |cell: &Cell| all.median(cell);
        let with_p90 = |cell: &Cell| {
            Some(format!(
                "{} ({})",
                ms(median(cell)?),
                ms(all.quantile(cell, 90)?)
            ))
        };
        if at_once == 1 {
            println!("\nOne at a time: median ms (p90), and times the floor's median");
            println!("{}", compare(all, at_once, median, with_p90));
        } else {
            println!("\n{at_once} at once: ms of wall time per operation, and times the floor's");
            println!(
                "{}",
                compare(all, at_once, |c| all.each(c), |c| all.each(c).map(ms))
            );
            println!("\n{at_once} at once: median ms (p90) that one caller waits");
            println!("{}", compare(all, at_once, median, with_p90));
        }
    }
    print_layers(all);
    print_steps(all);
    print_fsyncs(all);
    println!("\nThe aim for create + activate");
    for line in aims(all) {
        println!("  {line}");
    }
}

/// One row for each operation and number beside, a figure and a ratio for each variant.
fn compare(
    all: &Measured,
    at_once: u32,
    figure: impl Fn(&Cell) -> Option<f64>,
    shown: impl Fn(&Cell) -> Option<String>,
) -> Table {
    let mut header = vec!["operation".to_owned(), "beside".to_owned()];
    for variant in VARIANTS {
        header.push(variant.to_owned());
        if variant != "floor" {
            header.push("x floor".to_owned());
        }
    }
    let mut table = aligned(header);
    for (op, title) in OPS {
        for beside in all.levels() {
            let mut row = vec![title.to_owned(), beside.to_string()];
            for variant in VARIANTS {
                let cell = cell(variant, beside, at_once, op);
                let absent = || "-".to_owned();
                row.push(shown(&cell).unwrap_or_else(absent));
                if variant != "floor" {
                    let ratio = figure(&cell)
                        .zip(figure(&cell.of("floor")))
                        .map(|(a, b)| a / b);
                    row.push(ratio.map_or_else(absent, times));
                }
            }
            table.add_row(row);
        }
    }
    table
}

/// The CSI driver's calls beside the agent's own and the control plane's, where these have one that
/// does the same: what a container orchestrator waits for.
fn print_layers(all: &Measured) {
    let header = [
        "call",
        "beside",
        "median ms (p90)",
        "agent",
        "ratio",
        "control plane",
        "ratio",
    ];
    let mut table = aligned(header.map(str::to_owned).to_vec());
    for (op, title) in LAYERS {
        for beside in all.levels() {
            let ours = cell("csi", beside, 1, op);
            let (Some(took), Some(late)) = (all.median(&ours), all.quantile(&ours, 90)) else {
                continue;
            };
            let mut row = vec![
                title.to_owned(),
                beside.to_string(),
                format!("{} ({})", ms(took), ms(late)),
            ];
            for below in ["agent", "server"] {
                let own = all.median(&ours.of(below));
                row.push(own.map_or_else(String::new, ms));
                row.push(own.map_or_else(String::new, |own| times(took / own)));
            }
            table.add_row(row);
        }
    }
    if table.row_count() > 0 {
        println!("\nThrough the CSI driver, and what is below it asked directly\n{table}");
    }
}

/// Where the floor's time goes, and Goldleaf's where it is more than one call.
fn print_steps(all: &Measured) {
    let mut table = aligned(vec![
        "step, one at a time".into(),
        "beside".into(),
        "median ms".into(),
    ]);
    for cell in all
        .samples
        .keys()
        .filter(|c| c.op.contains('/') && c.at_once == 1)
    {
        let shown = all.median(cell).map_or_else(String::new, ms);
        table.add_row(vec![
            format!("{} {}", cell.variant, cell.op),
            cell.beside.to_string(),
            shown,
        ]);
    }
    println!("\nParts of an operation\n{table}");
}

/// Goldleaf's own fsyncs, counted by the block layer while it worked.
fn print_fsyncs(all: &Measured) {
    let mut table = aligned(
        ["operation", "beside", "at once", "catalogue", "store", "ms"]
            .map(str::to_owned)
            .to_vec(),
    );
    for (op, title) in OPS {
        for (beside, at_once) in pairs(all) {
            let cell = cell("goldleaf", beside, at_once, op);
            let (Some((catalogue, store)), Some(cost)) =
                (all.own_flushes(&cell), fsyncs(all, &cell))
            else {
                continue;
            };
            table.add_row(vec![
                title.to_owned(),
                beside.to_string(),
                at_once.to_string(),
                format!("{catalogue:.2}"),
                format!("{store:.2}"),
                ms(cost),
            ]);
        }
    }
    if table.row_count() == 0 {
        return;
    }
    let cost = |op| {
        all.median(&cell("storage", 0, 1, op))
            .map_or_else(|| "-".to_owned(), ms)
    };
    println!(
        "\nGoldleaf's own fsyncs per operation: flushes that the kernel counted on the devices of\n\
         catalogue and store, without those of the floor's same work, and what they cost. A 4 KiB\n\
         rewrite with fdatasync costs {} ms on a device like the catalogue's and {} ms on the store's\n\
         file system; an append there {} ms.\n{table}",
        cost("device"),
        cost("rewrite"),
        cost("append"),
    );
}

/// What an operation's own fsyncs cost, in microseconds.
fn fsyncs(all: &Measured, cell: &Cell) -> Option<f64> {
    let (catalogue, store) = all.own_flushes(cell)?;
    let cost = |op| all.median(&self::cell("storage", 0, 1, op));
    Some(catalogue * cost("device")? + store * cost("rewrite")?)
}

/// One sentence for each aim and place: reached, or by how much not.
fn aims(all: &Measured) -> Vec<String> {
    let mut lines = Vec::new();
    let figure = |cell: &Cell| {
        if cell.at_once == 1 {
            all.median(cell)
        } else {
            all.each(cell)
        }
    };
    for (beside, at_once) in pairs(all) {
        let ours = cell("goldleaf", beside, at_once, "create");
        let place = format!("beside {beside}, {at_once} at once");
        let (Some(took), Some(floor)) = (figure(&ours), figure(&ours.of("floor"))) else {
            continue;
        };
        if let Some(own) = fsyncs(all, &ours) {
            let allowed = AIM_OF_FLOOR * (floor + own);
            lines.push(format!(
                "{place}: {} ms, allowed {AIM_OF_FLOOR} x (floor {} + own fsyncs {}) = {} ms: {}",
                ms(took),
                ms(floor),
                ms(own),
                ms(allowed),
                verdict(
                    took <= allowed,
                    &format!("by {} ms, x{:.2}", ms(took - allowed), took / allowed)
                ),
            ));
        }
        if let Some(lvm) = figure(&ours.of("lvm")) {
            let ratio = lvm / took;
            lines.push(format!(
                "{place}: {} x faster than lvcreate: {}",
                times(ratio),
                verdict(ratio >= AIM_OF_LVM, &format!("{AIM_OF_LVM} x wanted")),
            ));
        }
    }
    let levels = all.levels();
    let (Some(&few), Some(&many)) = (levels.first(), levels.last()) else {
        return lines;
    };
    for at_once in all.loads().into_iter().filter(|_| few != many) {
        let growth = |variant| {
            let at = |beside| figure(&cell(variant, beside, at_once, "create"));
            Some(at(many)? / at(few)?)
        };
        let (Some(ours), Some(floor)) = (growth("goldleaf"), growth("floor")) else {
            continue;
        };
        let flat = ours <= AIM_OF_GROWTH * floor.max(1.0);
        lines.push(format!(
            "{at_once} at once, from {few} to {many} beside: x{ours:.2}, the floor x{floor:.2}: {}",
            verdict(flat, &format!("x{AIM_OF_GROWTH} of the floor's wanted")),
        ));
    }
    lines
}

fn verdict(reached: bool, by: &str) -> String {
    if reached {
        "reached".to_owned()
    } else {
        format!("MISSED ({by})")
    }
}

fn pairs(all: &Measured) -> Vec<(u32, u32)> {
    let loads = all.loads();
    all.levels()
        .into_iter()
        .flat_map(|l| loads.iter().map(move |&a| (l, a)))
        .collect()
}

fn cell(variant: &str, beside: u32, at_once: u32, op: &str) -> Cell {
    Cell {
        variant: variant.to_owned(),
        beside,
        at_once,
        op: op.to_owned(),
    }
}

fn aligned(header: Vec<String>) -> Table {
    let mut table = Table::new();
    table
        .load_style(comfy_table::presets::NOTHING)
        .set_header(header);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// Milliseconds with three digits that mean something.
fn ms(micros: f64) -> String {
    let ms = micros / 1e3;
    let places = if ms.abs() < 10.0 {
        2
    } else {
        usize::from(ms.abs() < 100.0)
    };
    format!("{ms:.places$}")
}

fn times(ratio: f64) -> String {
    if ratio < 10.0 {
        format!("{ratio:.2}")
    } else {
        format!("{ratio:.0}")
    }
}

fn as_json(all: &Measured) -> Value {
    let cells: Vec<_> = all
        .samples
        .iter()
        .map(|(cell, times)| {
            json!({
                "variant": cell.variant, "beside": cell.beside, "at_once": cell.at_once, "op": cell.op,
                "samples": times.len(), "median": all.median(cell), "p90": all.quantile(cell, 90),
                "wall_per_op": all.each(cell),
                "own_flushes": (cell.variant == "goldleaf").then(|| all.own_flushes(cell)).flatten(),
            })
        })
        .collect();
    json!({ "facts": all.facts, "cells": cells, "aims": aims(all) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A kernel where floor, fsync and LVM take these microseconds, and Goldleaf one and a half
    /// flush of each kind.
    fn measured(goldleaf: u32, at_many: u32) -> Measured {
        let mut text =
            String::from("sample storage 0 1 device 10\nsample storage 0 1 rewrite 20\n");
        for (beside, took) in [(10, goldleaf), (1000, at_many)] {
            for (variant, took) in [("floor", 100), ("goldleaf", took), ("lvm", 2000)] {
                text += &format!("sample {variant} {beside} 1 create {took}\n");
                text += &format!("wall {variant} {beside} 1 create 2 {}\n", took * 2);
            }
            text += &format!("flushes floor {beside} 1 create 2 6 0\n");
            text += &format!("flushes goldleaf {beside} 1 create 2 10 4\n");
        }
        Measured::read(&(text + "fact done\n")).unwrap()
    }

    fn missed(all: &Measured) -> Vec<String> {
        aims(all)
            .into_iter()
            .filter(|line| line.contains("MISSED"))
            .collect()
    }

    #[test]
    fn own_fsyncs_are_allowed_beside_the_floor() {
        // 1.15 x (100 + 2 x 10 + 2 x 20) = 184
        assert!(missed(&measured(183, 183)).is_empty());
        assert_eq!(missed(&measured(185, 185)).len(), 2);
    }

    #[test]
    fn lvm_and_growth_have_their_own_verdicts() {
        assert!(
            missed(&measured(210, 210))
                .iter()
                .filter(|l| l.contains("lvcreate"))
                .count()
                == 2
        );
        let grown = missed(&measured(100, 140));
        assert_eq!(grown.len(), 1, "{grown:?}");
        assert!(grown[0].contains("from 10 to 1000"));
    }

    #[test]
    fn figures_keep_three_digits() {
        assert_eq!(
            [ms(1234.0), ms(12_345.0), ms(123_456.0)],
            ["1.23", "12.3", "123"]
        );
        assert_eq!([times(1.5), times(123.4)], ["1.50", "123"]);
    }
}
