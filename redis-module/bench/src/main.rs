//! What averaging gradients costs in and around Redis: in the module, in a client, in Lua over JSON.
//!
//! All ways take turns in one run on one server, so that whatever disturbs the machine disturbs all of them.
//! Written for `docs/redis.md`, which says what is measured.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use peerless_aggregation::{FixedPoint, UnitBytes};
use peerless_redis_bench::{Server, module, version};
use redis::{Connection, cmd};

const HELP: &str = "\
usage: redis-bench [--elements N] [--gradients N] [--repetitions N] [--lua-repetitions N]

Averages gradients in a server of its own on the loopback interface and prints medians in milliseconds:
by default 16 gradients of 1,500,000 f32, 7 repetitions, 3 of Lua, which takes seconds each.";

const GRID: FixedPoint = FixedPoint::DEFAULT;

/// What the papers do, with the gradients as JSON lists of numbers.
const LUA_AVERAGE: &str = "
local mean = cjson.decode(redis.call('GET', KEYS[2]))
for k = 3, #KEYS do
  local gradient = cjson.decode(redis.call('GET', KEYS[k]))
  for i = 1, #mean do mean[i] = mean[i] + gradient[i] end
end
local count = #KEYS - 1
for i = 1, #mean do mean[i] = mean[i] / count end
redis.call('SET', KEYS[1], cjson.encode(mean))
return #mean";

struct Options {
    elements: usize,
    gradients: usize,
    repetitions: usize,
    lua_repetitions: usize,
}

impl Options {
    fn parse() -> Result<Option<Self>> {
        let mut options = Self { elements: 1_500_000, gradients: 16, repetitions: 7, lua_repetitions: 3 };
        let mut arguments = std::env::args().skip(1);
        while let Some(name) = arguments.next() {
            let field = match name.as_str() {
                "--help" | "-h" => return Ok(None),
                "--elements" => &mut options.elements,
                "--gradients" => &mut options.gradients,
                "--repetitions" => &mut options.repetitions,
                "--lua-repetitions" => &mut options.lua_repetitions,
                _ => bail!("unknown option {name}; see --help"),
            };
            let value = arguments.next().with_context(|| format!("{name} needs a number"))?;
            *field = value.parse().with_context(|| format!("{name} {value} is no number"))?;
        }
        ensure!(options.elements > 0 && options.gradients > 0 && options.repetitions > 0, "nothing to measure");
        Ok(Some(options))
    }
}

/// Gradients, and a database that holds them as bytes and as JSON.
struct Bench {
    connection: Connection,
    gradients: Vec<Vec<f32>>,
    keys: Vec<String>,
    json_keys: Vec<String>,
}

fn main() -> Result<()> {
    let Some(options) = Options::parse()? else {
        println!("{HELP}");
        return Ok(());
    };
    println!("{}", version()?);
    let folder = tempfile::tempdir()?;
    let server = Server::start(folder.path(), Some(&module()?), &["--save", "", "--appendonly", "no"])?;
    let mut bench = Bench::new(&server, &options)?;
    bench.check()?;
    let ways: [(&str, Way); 9] = [
        ("module: PEERLESS.AVERAGE, one command", Bench::module_average),
        ("module: PEERLESS.ADD of all, PEERLESS.MEAN", Bench::module_sum),
        ("module: PEERLESS.ADD one by one, PEERLESS.MEAN", Bench::module_one_by_one),
        ("module: PEERLESS.ADD of all, PEERLESS.STEP (Adam)", Bench::module_step),
        ("plain client: MGET, f32 average, SET", Bench::client_average),
        ("client: MGET, exact sum, SET of the mean", Bench::client_sum),
        ("client: one GET after the other, exact sum, SET", Bench::client_one_by_one),
        ("limit: reading the gradients in memory", Bench::read),
        ("Lua over JSON in the server", Bench::lua),
    ];
    let mut times = vec![Vec::new(); ways.len()];
    for repetition in 0..options.repetitions {
        // Lua comes last.
        let skipped = usize::from(repetition >= options.lua_repetitions);
        for (times, (name, way)) in times.iter_mut().zip(&ways[..ways.len() - skipped]) {
            let start = Instant::now();
            way(&mut bench)?;
            times.push(start.elapsed());
            eprintln!("{repetition} {name}: {:.2} ms", start.elapsed().as_secs_f64() * 1e3);
        }
    }
    report(&options, &ways.map(|way| way.0), times);
    Ok(())
}

type Way = fn(&mut Bench) -> Result<()>;

fn report(options: &Options, names: &[&str], mut times: Vec<Vec<Duration>>) {
    println!("{} gradients of {} f32; milliseconds", options.gradients, options.elements);
    println!("{:50} {:>10} {:>10} {:>10} {:>4} {:>8}", "", "median", "fastest", "slowest", "n", "ratio");
    let median = |times: &[Duration]| times.get(times.len() / 2).map_or(f64::NAN, |time| time.as_secs_f64() * 1e3);
    times.iter_mut().for_each(|times| times.sort());
    let first = times.first().map_or(f64::NAN, |times| median(times));
    for (name, times) in names.iter().zip(&times) {
        let [fastest, slowest] =
            [times.first(), times.last()].map(|time| time.map_or(f64::NAN, |t| t.as_secs_f64() * 1e3));
        let median = median(times);
        println!("{name:50} {median:10.2} {fastest:10.2} {slowest:10.2} {:4} {:8.1}", times.len(), median / first);
    }
}

impl Bench {
    fn new(server: &Server, options: &Options) -> Result<Self> {
        let gradient = |unit| normal(unit as u64 + 1, options.elements);
        let gradients: Vec<Vec<f32>> = (0..options.gradients).map(gradient).collect();
        let name = |kind: &str| (0..options.gradients).map(|unit| format!("{kind}:{unit}")).collect();
        let (keys, json_keys): (Vec<String>, Vec<String>) = (name("gradient"), name("json"));
        let mut connection = server.connect()?;
        for ((gradient, key), json_key) in gradients.iter().zip(&keys).zip(&json_keys) {
            cmd("SET").arg(key).arg(bytes_of(gradient)).query::<()>(&mut connection)?;
            // As Python's json.dumps writes the list that PyTorch and NumPy make of f32: all digits of the f64,
            // with an exponent if it is small.
            let numbers: Vec<String> = gradient.iter().map(|element| format!("{:?}", f64::from(*element))).collect();
            cmd("SET").arg(json_key).arg(format!("[{}]", numbers.join(","))).query::<()>(&mut connection)?;
        }
        cmd("SET").arg("parameters").arg(vec![0_u8; 4 * options.elements]).query::<()>(&mut connection)?;
        Ok(Self { connection, gradients, keys, json_keys })
    }

    /// Every way must come to the same mean: exactly where sums are exact, nearly otherwise.
    fn check(&mut self) -> Result<()> {
        let mut sums = vec![0; self.gradients[0].len()];
        for gradient in &self.gradients {
            GRID.accumulate(&mut sums, gradient, 0)?;
        }
        let mut mean = vec![0.0; sums.len()];
        GRID.mean(&sums, self.gradients.len() as u64, &mut mean)?;
        let expected = bytes_of(&mean);
        let exact: [Way; 5] = [
            Self::module_average,
            Self::module_sum,
            Self::module_one_by_one,
            Self::client_sum,
            Self::client_one_by_one,
        ];
        for way in exact {
            cmd("DEL").arg("mean").query::<()>(&mut self.connection)?;
            way(self)?;
            let found: Vec<u8> = cmd("GET").arg("mean").query(&mut self.connection)?;
            ensure!(found == expected, "a mean differs from the exact one");
        }
        self.client_average()?;
        let found: Vec<u8> = cmd("GET").arg("mean").query(&mut self.connection)?;
        let near = |(bytes, mean): (&[u8; 4], &f32)| (f32::from_le_bytes(*bytes) - mean).abs() < 1e-6;
        ensure!(found.as_chunks().0.iter().zip(&mean).all(near), "the plain client's mean is wrong");
        Ok(())
    }

    fn module_average(&mut self) -> Result<()> {
        let mut average = cmd("PEERLESS.AVERAGE");
        Ok(average.arg(GRID.fraction_bits()).arg("mean").arg(&self.keys).query(&mut self.connection)?)
    }

    /// What a peer needs that announces its sum: the sum stays.
    fn module_sum(&mut self) -> Result<()> {
        cmd("PEERLESS.CLEAR").arg("sum").query::<()>(&mut self.connection)?;
        let mut add = cmd("PEERLESS.ADD");
        add.arg(GRID.fraction_bits()).arg("sum");
        for (unit, key) in self.keys.iter().enumerate() {
            add.arg(unit).arg(key);
        }
        add.query::<()>(&mut self.connection)?;
        Ok(cmd("PEERLESS.MEAN").arg("mean").arg("sum").query(&mut self.connection)?)
    }

    /// As gradients arrive: most of the work is done while others are still being computed.
    fn module_one_by_one(&mut self) -> Result<()> {
        cmd("PEERLESS.CLEAR").arg("sum").query::<()>(&mut self.connection)?;
        for (unit, key) in self.keys.iter().enumerate() {
            let mut add = cmd("PEERLESS.ADD");
            add.arg(GRID.fraction_bits()).arg("sum").arg(unit).arg(key).query::<()>(&mut self.connection)?;
        }
        Ok(cmd("PEERLESS.MEAN").arg("mean").arg("sum").query(&mut self.connection)?)
    }

    /// The whole round inside the database.
    fn module_step(&mut self) -> Result<()> {
        let mut add = cmd("PEERLESS.ADD");
        add.arg(GRID.fraction_bits()).arg("step sum");
        for (unit, key) in self.keys.iter().enumerate() {
            add.arg(unit).arg(key);
        }
        add.query::<()>(&mut self.connection)?;
        let mut step = cmd("PEERLESS.STEP");
        step.arg("parameters").arg("slots").arg("step sum").arg("0.001").arg(0).arg("adam");
        Ok(step.query(&mut self.connection)?)
    }

    fn client_average(&mut self) -> Result<()> {
        let gradients: Vec<Vec<u8>> = cmd("MGET").arg(&self.keys).query(&mut self.connection)?;
        let mut mean = vec![0.0_f32; self.gradients[0].len()];
        for gradient in &gradients {
            for (sum, element) in mean.iter_mut().zip(gradient.as_chunks().0) {
                *sum += f32::from_le_bytes(*element);
            }
        }
        let count = gradients.len() as f32;
        mean.iter_mut().for_each(|sum| *sum /= count);
        self.set_mean(bytes_of(&mean))
    }

    fn client_sum(&mut self) -> Result<()> {
        let gradients: Vec<Vec<u8>> = cmd("MGET").arg(&self.keys).query(&mut self.connection)?;
        let units: Vec<UnitBytes<'_>> = (0..).zip(gradients.iter().map(Vec::as_slice)).collect();
        let mut mean = vec![0; gradients[0].len()];
        GRID.average_bytes(&units, &mut mean)?;
        self.set_mean(mean)
    }

    fn client_one_by_one(&mut self) -> Result<()> {
        let mut sums = vec![0; 8 * self.gradients[0].len()];
        for (unit, key) in (0..).zip(&self.keys) {
            let gradient: Vec<u8> = cmd("GET").arg(key).query(&mut self.connection)?;
            GRID.accumulate_bytes(&mut sums, &[(unit, &gradient)])?;
        }
        let mut mean = vec![0.0; sums.len() / 8];
        GRID.mean_bytes(&sums, self.keys.len() as u64, &mut mean)?;
        self.set_mean(bytes_of(&mean))
    }

    fn set_mean(&mut self, mean: Vec<u8>) -> Result<()> {
        Ok(cmd("SET").arg("mean").arg(mean).query(&mut self.connection)?)
    }

    /// Every bit of the gradients once, with next to no arithmetic.
    fn read(&mut self) -> Result<()> {
        let mut all = 0;
        for gradient in &self.gradients {
            all |= gradient.iter().fold(0, |bits, element| bits ^ element.to_bits());
        }
        std::hint::black_box(all);
        Ok(())
    }

    fn lua(&mut self) -> Result<()> {
        let mut eval = cmd("EVAL");
        eval.arg(LUA_AVERAGE).arg(1 + self.json_keys.len()).arg("json mean").arg(&self.json_keys);
        let elements: usize = eval.query(&mut self.connection)?;
        ensure!(elements == self.gradients[0].len(), "Lua averaged {elements} elements");
        Ok(())
    }
}

/// Normally distributed with standard deviation 0.01, nearly: twelve uniform numbers each (xorshift64).
fn normal(seed: u64, elements: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1_u64 << 53) as f64
    };
    (0..elements).map(|_| ((0..12).map(|_| uniform()).sum::<f64>() * 0.01 - 0.06) as f32).collect()
}

fn bytes_of(elements: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0; 4 * elements.len()];
    for (bytes, element) in bytes.as_chunks_mut().0.iter_mut().zip(elements) {
        *bytes = element.to_le_bytes();
    }
    bytes
}
