//! Between the corpus of a target, a file of lines, and the directory of files that libFuzzer works on.

use conch_fuzz::corpus;
use std::{env, fs, io, path::Path, process::ExitCode};

const USAGE: &str =
    "usage: conch-corpus targets | unpack TARGET DIRECTORY | pack TARGET DIRECTORY | add TARGET FILE";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        ["targets"] => {
            for (target, _) in conch_fuzz::TARGETS {
                println!("{target}");
            }
            Ok(())
        }
        ["unpack", target, directory] => unpack(target, Path::new(directory)),
        ["pack", target, directory] => pack(target, Path::new(directory)),
        ["add", target, file] => add(target, Path::new(file)),
        _ => Err(io::Error::other(USAGE)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn unpack(target: &str, directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    for (number, input) in corpus::read(target)?.iter().enumerate() {
        fs::write(directory.join(format!("{number:04}")), input)?;
    }
    Ok(())
}

fn pack(target: &str, directory: &Path) -> io::Result<()> {
    let inputs: io::Result<Vec<_>> = fs::read_dir(directory)?.map(|file| fs::read(file?.path())).collect();
    corpus::write(target, &inputs?)
}

fn add(target: &str, file: &Path) -> io::Result<()> {
    let mut inputs = corpus::read(target)?;
    inputs.push(fs::read(file)?);
    corpus::write(target, &inputs)
}
