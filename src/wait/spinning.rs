//! How often a thread looks before it sleeps: as often as its own waits have taught it.
//!
//! A thread on another CPU hands over in less than a microsecond, if nobody sleeps. A sleep and a
//! wake-up take twenty. So it pays to look for a while if the other is awake, and it is lost if the
//! other runs on the same CPU, or is busy for long. No thread can know which it is, so each learns:
//! - A wait that looking has ended raises the number of looks to four times those that it took.
//! - One in vain halves the number.
//! - After more and more of those, one wait looks longer: the *probes*.
//! - Successes are *saved*, and pay for looking longer after one in vain.

use core::cell::Cell;
use core::hint;

use crossproc_sys::futex::MAX_SPINS;

/// The least number of looks, so that one success can raise the number again.
const MIN_SPINS: u32 = 4;
/// The number of looks that is worth a try: a hand-over between two CPUs takes less.
const SHORT_SPINS: u32 = 128;
/// After this many waits in which spinning was in vain, one wait spins for at least `SHORT_SPINS`.
/// So does one after twice as many, and so on: the longer it has been in vain, the less is tried.
const FIRST_PROBE: u32 = 16;
/// After this many, one wait spins to the full, which is as long as it takes to wake another
/// thread, and the count begins again. Only so do two threads that sleep for each other in turns
/// come to spin for each other.
const LONG_PROBE: u32 = 512;

/// How many waits that spinning ended pay for one wait that spins to the full, after one in vain. A
/// hiccup of one of two threads that spin for each other would otherwise make both sleep.
const PRICE: u32 = 16;
/// For how many of those a thread can save up.
const SAVINGS: u32 = 4 * PRICE;

/// How often a thread looks before it sleeps, learned from its own waits.
#[derive(Clone, Copy)]
struct Spins {
    looks: u32,
    /// How many waits in a row were in vain, modulo `LONG_PROBE`.
    in_vain: u32,
    /// How many waits were not, less what was spent.
    saved: u32,
}

thread_local! {
    static SPINS: Cell<Spins> = const {
        let looks = if MAX_SPINS < SHORT_SPINS { MAX_SPINS } else { SHORT_SPINS };
        Cell::new(Spins { looks, in_vain: 0, saved: 0 })
    };
}

/// Looks as often as this thread has learned to. Returns whether `look` said yes.
#[allow(clippy::unnecessary_min_or_max, reason = "MAX_SPINS is 0 in the models")]
pub(super) fn spin(mut look: impl FnMut() -> bool) -> bool {
    if MAX_SPINS == 0 {
        return false;
    }
    let Spins { looks, in_vain, mut saved } = SPINS.get();
    let budget = match in_vain + 1 {
        LONG_PROBE => MAX_SPINS,
        2.. if saved >= PRICE => {
            saved -= PRICE;
            MAX_SPINS
        }
        vain if vain >= FIRST_PROBE && vain.is_power_of_two() => looks.max(SHORT_SPINS),
        _ => looks,
    };
    for used in 0..budget {
        if look() {
            let looks = (used * 4).min(MAX_SPINS).max(budget / 2).max(MIN_SPINS);
            SPINS.set(Spins { looks, in_vain: 0, saved: (saved + 1).min(SAVINGS) });
            return true;
        }
        hint::spin_loop();
    }
    let looks = (looks / 2).max(MIN_SPINS);
    SPINS.set(Spins { looks, in_vain: (in_vain + 1) % LONG_PROBE, saved });
    false
}

#[cfg(all(test, not(crossproc_loom)))]
mod tests {
    use super::*;

    /// Spins, and sees what it waits for at look `yes`. Returns how many looks it took.
    fn looks(yes: u32) -> u32 {
        let mut looks = 0;
        spin(|| {
            looks += 1;
            looks == yes
        });
        looks
    }

    const NEVER: u32 = u32::MAX;

    /// Runs in a thread that has learned nothing yet.
    fn newly(test: fn()) {
        std::thread::spawn(test).join().unwrap();
    }

    #[test]
    fn a_thread_that_looks_in_vain_looks_less_and_tries_more_now_and_then() {
        newly(|| {
            let tried: Vec<_> = (1..=2 * LONG_PROBE).map(|_| looks(NEVER)).collect();
            assert_eq!(tried[..7], [128, 64, 32, 16, 8, 4, 4]);
            let probes: Vec<_> =
                (0..).zip(&tried).skip(6).filter(|&(_, &looks)| looks != MIN_SPINS).collect();
            let short = [16, 32, 64, 128, 256].map(|nth| (nth - 1, &SHORT_SPINS));
            assert_eq!(probes[..5], short);
            assert_eq!(probes[5], (LONG_PROBE as i32 - 1, &MAX_SPINS));
            // What follows is as at first, but for the number of looks that was learned.
            assert_eq!(probes.len(), 12);
        });
    }

    #[test]
    fn what_looking_has_saved_pays_for_a_hiccup() {
        newly(|| {
            assert_eq!([(); 40].map(|()| looks(2)), [2; 40]);
            // The first in vain is no reason yet.
            let first = looks(NEVER);
            assert!(first < SHORT_SPINS, "{first}");
            assert_eq!(looks(NEVER), MAX_SPINS);
            assert_eq!(looks(NEVER), MAX_SPINS);
            // That was the price of 32 of them.
            assert!(looks(NEVER) < SHORT_SPINS);
        });
    }
}
