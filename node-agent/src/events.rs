//! The kernel's device-mapper events, as a hint that a pool has changed.
//!
//! One thread, started by `app`; it blocks in the kernel and goes with the process. Arms the control
//! node's poll, looks, waits, and compares event numbers: no pool is asked for its status while
//! nothing happens. A pool that moved has its room minded at once, before anybody is told.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use goldleaf_dm::{Control, DmError, Events, Owned};
use goldleaf_types::PoolId;

use crate::ops::Agent;
use crate::telemetry::Chain;

/// How long one wait takes at most; then it is armed anew, which changes nothing.
const WAIT: Duration = Duration::from_secs(3600);

/// How long it takes at most when a pool could not be looked at.
const AGAIN: Duration = Duration::from_secs(1);

/// Follows the events until the process ends or the agent is dropped.
///
/// # Errors
///
/// When no thread can be had.
pub fn follow(agent: &Arc<Agent>) -> io::Result<()> {
    let agent = Arc::downgrade(agent);
    std::thread::Builder::new().name("dm-events".into()).spawn(move || {
        if let Err(error) = watch(&agent) {
            tracing::error!(error = %Chain(&error), "device-mapper events are lost; sweeps go on");
        }
    })?;
    Ok(())
}

fn watch(agent: &Weak<Agent>) -> Result<(), DmError> {
    let (control, events) = (Control::open()?, Events::open()?);
    let mut seen: HashMap<PoolId, u32> = HashMap::new();
    loop {
        // Armed before looking: what happens in between wakes the wait at once.
        events.arm()?;
        let Some(agent) = agent.upgrade() else {
            return Ok(());
        };
        let (mut moved, mut wait) = (false, WAIT);
        // Pool by pool: the list of all devices is as long as there are volumes, and each volume
        // that comes or goes wakes us.
        for pool in agent.pools.all_open() {
            let device = match control.find(&Owned::Pool(pool.id).name()) {
                Ok(device) => device,
                Err(error) => {
                    wait = AGAIN;
                    tracing::warn!(pool = %pool.id, error = %Chain(&error), "not looked at after an event");
                    continue;
                }
            };
            if let Some(device) = device
                && seen.insert(pool.id, device.event_nr) != Some(device.event_nr)
            {
                moved = true;
                agent.mind_space(&pool);
            }
        }
        if moved {
            agent.changed();
        }
        drop(agent);
        events.wait(wait)?;
    }
}
