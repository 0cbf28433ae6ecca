//! The machine's cores, and pinning.
//!
//! Read once, before the first pin: afterwards the list that the scheduler shows shrinks to the
//! pinned core, and isolated cores are hidden from it at all times.

use std::fs;
use std::io;

use crate::PlatformError;

/// What the system says of its cores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cores {
    online: Vec<usize>,
    isolated: Vec<usize>,
    allowed: Vec<usize>,
}

impl Cores {
    /// Reads sysfs, and what the scheduler allows the calling thread. Call it before the first pin.
    pub fn read() -> io::Result<Cores> {
        let list = |name: &str| {
            fs::read_to_string(format!("/sys/devices/system/cpu/{name}")).map(|text| parse(&text))
        };
        Ok(Cores {
            online: list("online")?,
            isolated: list("isolated").unwrap_or_default(),
            allowed: allowed_now()?,
        })
    }

    /// Cores that run.
    pub fn count(&self) -> usize {
        self.online.len()
    }

    pub fn online(&self) -> &[usize] {
        &self.online
    }

    /// Cores that the scheduler leaves alone (isolcpus=).
    pub fn isolated(&self) -> &[usize] {
        &self.isolated
    }

    /// Cores that this process was given (taskset, cgroup).
    pub fn allowed(&self) -> &[usize] {
        &self.allowed
    }

    /// Refuses a core that is not there.
    pub fn check(&self, core: usize) -> Result<(), PlatformError> {
        if self.online.contains(&core) {
            return Ok(());
        }
        Err(PlatformError::NoSuchCore {
            core,
            cores: show(&self.online),
        })
    }
}

/// Pins the calling thread and checks that the scheduler agreed.
pub fn pin_current(core: usize) -> Result<(), PlatformError> {
    // A core past the kernel's mask would be out of bounds there.
    let asked = core < rustix::thread::CpuSet::MAX_CPU
        && core_affinity::set_for_current(core_affinity::CoreId { id: core });
    let allowed = allowed_now().map_err(PlatformError::io("sched_getaffinity"))?;
    if asked && allowed == [core] {
        Ok(())
    } else {
        Err(PlatformError::NotPinned {
            core,
            got: show(&allowed),
        })
    }
}

fn allowed_now() -> io::Result<Vec<usize>> {
    let set = rustix::thread::sched_getaffinity(None)?;
    Ok((0..rustix::thread::CpuSet::MAX_CPU)
        .filter(|core| set.is_set(*core))
        .collect())
}

/// `0-2,5` as numbers; anything malformed is left out.
fn parse(text: &str) -> Vec<usize> {
    let mut cores = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<usize>(), last.parse::<usize>()) {
            cores.extend(first..=last.min(first + 65_536));
        }
    }
    cores
}

fn show(cores: &[usize]) -> String {
    let mut shown = String::new();
    let mut rest = cores;
    while let Some((&first, _)) = rest.split_first() {
        let run = rest
            .iter()
            .enumerate()
            .take_while(|(i, core)| **core == first + i)
            .count();
        if !shown.is_empty() {
            shown.push(',');
        }
        match run {
            1 => shown.push_str(&first.to_string()),
            _ => shown.push_str(&format!("{first}-{}", first + run - 1)),
        }
        rest = &rest[run..];
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_parse_and_print() {
        assert_eq!(parse("0-2,5\n"), [0, 1, 2, 5]);
        assert_eq!(parse("\n"), [] as [usize; 0]);
        assert_eq!(show(&[0, 1, 2, 5]), "0-2,5");
    }

    #[test]
    #[cfg_attr(miri, ignore)]
    fn a_core_that_does_not_exist_is_named_with_those_that_do() {
        let cores = Cores::read().unwrap();
        let missing = cores.online().iter().max().unwrap() + 1;
        let error = cores.check(missing).unwrap_err().to_string();
        assert!(error.contains(&format!("core {missing}")) && error.contains("node.toml"));
        assert!(cores.check(cores.online()[0]).is_ok());
    }

    #[test]
    #[cfg_attr(miri, ignore)]
    fn pinning_is_verified() {
        let core = Cores::read().unwrap().allowed()[0];
        std::thread::spawn(move || {
            pin_current(core).unwrap();
            assert_eq!(Cores::read().unwrap().allowed(), [core]);
            for missing in [1023, 1024, usize::MAX] {
                let error = pin_current(missing).unwrap_err();
                assert!(matches!(error, PlatformError::NotPinned { .. }));
            }
        })
        .join()
        .unwrap();
    }
}
