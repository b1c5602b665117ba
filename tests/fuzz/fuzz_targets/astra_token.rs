#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| vault_plugin_astra::fuzz::run("astra_token", data));
