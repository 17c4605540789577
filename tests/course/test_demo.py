"""The page that listens, in a browser: the model's numbers, a recording as the microphone, and what can go wrong."""

import base64
import contextlib
import json
import shutil
import threading

import numpy as np
import pytest
import soundfile
import soxr
from conftest import ROOT

from kws.audio import read_clip, visible_files
from kws.infra.files import CourseError
from kws.microphone import in_chunks, listen
from kws.pi import KeywordDetector
from kws.pretrained import load_pretrained, loudest_second, shipped_models, top
from tools import demo

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-quic"]
FAKE = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
in_browser = [
    pytest.mark.full,
    pytest.mark.timeout(600),
    pytest.mark.xdist_group("demo"),
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium here"),
]


def browser_test(test):
    for mark in in_browser:
        test = mark(test)
    return test


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The page, laid together with the models of the package."""
    try:
        return demo.build(tmp_path_factory.mktemp("demo"), "data/there_is_none")
    except CourseError as error:
        pytest.skip(str(error))


@contextlib.contextmanager
def opened(folder, *options, permissions=("microphone",), script="", wait="body[data-ready]", **context):
    """The page of a folder in a browser that is started with some options; afterwards it must have had no errors."""
    from playwright.sync_api import sync_playwright

    with demo.server_of(folder, 0) as server, sync_playwright() as playwright:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*OPTIONS, *options])
        page = browser.new_context(permissions=list(permissions), **context).new_page()
        if script:
            page.add_init_script(script)
        errors = []
        page.on("pageerror", lambda error: errors.append(error))
        page.goto(f"http://localhost:{server.server_port}/")
        page.wait_for_selector(wait, timeout=60_000)
        yield page
        assert not errors
        browser.close()
        server.shutdown()


def bars(page):
    """[(probability, label)] as the bars show them."""
    rows = "[...document.querySelectorAll('#bars li')].map(row => [Number(row.style.getPropertyValue('--share')), row.innerText])"
    return page.evaluate(rows)


def shows(page, selector, text):
    """Wait until an element shows a text. The page's policy lets no string of a test run as code in it, to look again."""
    page.locator(selector, has_text=text).wait_for(timeout=20_000)


def test_the_page_is_small_and_fetches_nothing_from_elsewhere():
    scripts = sorted((ROOT / "demo").glob("*.js"))
    code = [
        line
        for path in scripts
        for line in path.read_text().splitlines()
        if line.strip() and not line.strip().startswith(("//", "*", "/*"))
    ]
    assert len(code) <= 430, len(code)
    for path in (ROOT / "demo").iterdir():
        if path.suffix not in (".svg", ".md"):
            assert "http" not in path.read_text().replace("http-equiv", "").replace("https:// and", ""), (
                path.name
            )
        assert path.stat().st_size < 20_000, path.name


def serve(folder):
    server = demo.server_of(folder, 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, f"http://localhost:{server.server_port}"


def test_the_runtime_comes_from_a_cdn_where_there_is_no_npm(tmp_path, monkeypatch):
    """Stand-ins: small files, and a server on this machine."""
    import hashlib

    page = tmp_path / "page"
    page.mkdir()
    files = {"core/dist/index.js": b"one", "wasm-utils/dist/index.js": b"two"}
    for name, content in files.items():
        package, path = name.split("/", 1)
        there = tmp_path / f"cdn/@litertjs/{package}@9.9.9/{path}"
        there.parent.mkdir(parents=True)
        there.write_bytes(content)
    wanted = {
        "version": "9.9.9",
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    }
    (page / "litert.json").write_text(json.dumps(wanted))
    monkeypatch.setattr(demo, "PAGE", page)
    server, url = serve(tmp_path / "cdn")
    demo.fetch_runtime(tmp_path / "litert", url, npm="there-is-no-npm")
    assert all((tmp_path / "litert" / name).read_bytes() == content for name, content in files.items())
    (tmp_path / "litert/core/dist/index.js").write_bytes(b"cut off")
    (tmp_path / "cdn/@litertjs/core@9.9.9/dist/index.js").write_bytes(b"another")
    with pytest.raises(CourseError, match="not the file that the course expects"):
        demo.fetch_runtime(tmp_path / "litert", url, npm="there-is-no-npm")
    server.shutdown()
    server.server_close()
    with pytest.raises(CourseError, match="cannot be fetched"):
        demo.fetch_runtime(tmp_path / "litert", url, npm="there-is-no-npm")


def test_which_model_begins(tmp_path):
    for name in ("synthetic", "mine"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model_int8.tflite").write_bytes(b"")
    first = [demo.models_of(tmp_path / name)[0][0] for name in ("synthetic", "mine", "none")]
    package = "MatchboxNet, trained beside running speech (comes with the course)"
    assert first == [package, "model_int8.tflite of mine", package]


def as_text(clips):
    """Sounds as base64 of 16 bits; the page makes floats of them."""
    return [base64.b64encode((clip * 32_768).astype("<i2").tobytes()).decode() for clip in clips]


FLOATS = "text => Float32Array.from(new Int16Array(Uint8Array.from(atob(text), c => c.charCodeAt(0)).buffer), v => v / 32768)"


@pytest.fixture(scope="module")
def heard(request):
    """Fifty clips: of people, where there is real speech beside the project, else of machines."""
    try:
        folder = request.getfixturevalue("real_corpus")
        names = (folder / "train/testing_list.txt").read_text().split()
        paths = [folder / "train/audio" / name for name in names]
    except pytest.skip.Exception:
        paths = sorted((request.getfixturevalue("corpus") / "train/audio").glob("[a-z]*/*.wav"))
    return np.stack([read_clip(paths[i]) for i in np.linspace(0, len(paths) - 1, 50).astype(int)])


@browser_test
@pytest.mark.parametrize("name", shipped_models())
def test_probabilities_are_those_of_python(folder, heard, name, record_property):
    model = load_pretrained(name)
    wanted = np.stack([model.predict(clip) for clip in heard])
    file = contents(folder)["models"][shipped_models().index(name)]["file"]
    run = f"""async ([file, labels, texts]) => {{
        const {{ openModel }} = await import("./model.js");
        const model = await openModel(new Uint8Array(await (await fetch(file)).arrayBuffer()), labels);
        const results = [], times = [], floats = {FLOATS};
        for (const clip of texts.map(floats)) {{
            const start = performance.now();
            results.push([...await model.predict(clip)]);
            times.push(performance.now() - start);
        }}
        return [results, times];
    }}"""
    with opened(folder) as page:
        found, times = page.evaluate(run, [file, list(model.labels), as_text(heard)])
    differences = np.abs(np.array(found) - wanted)
    record_property("difference", float(differences.max()))
    print(
        f"{name}: largest difference {differences.max():.1e}, more than 1e-4 in {(differences > 1e-4).mean():.1%}, "
        f"median {np.median(times):.2f} ms a look in the browser"
    )
    assert (np.argmax(found, 1) == wanted.argmax(1)).all()
    # what lies between two of the 256 steps of eight bits may be rounded to either
    assert differences.max() < 1 / 256 + 1e-4 and (differences > 1e-4).mean() < 0.01


def contents(folder):
    return json.loads((folder / "contents.json").read_text())


@browser_test
def test_detector_and_picture_are_those_of_python(folder, heard):
    from kws.preprocess import log_mel

    rng = np.random.default_rng(0)
    rows = rng.dirichlet(np.full(5, 0.1), 200).astype("float32")
    rows = np.repeat(rows, 4, 0)[:300]
    detector = KeywordDetector(list("abcde"), 0.6)
    wanted = [detector.update(100 * at, row) for at, row in enumerate(rows)]
    sound = np.concatenate([np.zeros(7_000, "float32"), heard[0], np.zeros(9_000, "float32")])
    run = f"""async ([rows, texts]) => {{
        const {{ KeywordDetector, loudestSecond, LastSecond }} = await import("./detector.js");
        const {{ melColumn }} = await import("./mel.js");
        const detector = new KeywordDetector([..."abcde"], 0.6), [clip, long] = texts.map({FLOATS});
        const second = new LastSecond();
        for (let at = 0; at + 1600 <= long.length; at += 1600) second.push(long.slice(at, at + 1600));
        return {{
            words: rows.map((row, at) => detector.update(100 * at, row)),
            mel: Array.from({{ length: 98 }}, (_, i) => melColumn(clip.subarray(160 * i, 160 * i + 480))),
            loudest: [...loudestSecond(long)],
            last: [...second.sound],
        }};
    }}"""
    with opened(folder) as page:
        found = page.evaluate(run, [rows.tolist(), as_text([heard[0], sound])])
    assert sum(word is not None for word in wanted) > 5
    for one, other in zip(found["words"], wanted):
        assert (one is None) == (other is None)
        if one:
            assert one["word"] == other[0] and one["probability"] == pytest.approx(other[1], abs=1e-6)
    assert np.abs(np.array(found["mel"]) - log_mel(heard[:1]).numpy()[0]).max() < 1e-3
    assert np.allclose(found["loudest"], loudest_second(sound)[1], atol=1e-6)
    assert np.allclose(found["last"], sound[-16_000:], atol=1e-6)


def microphone_of(path, sound):
    """Options of a browser whose microphone hears a sound (float, 16 kHz) once; its sound card has 48 kHz."""
    soundfile.write(path, soxr.resample(sound, 16_000, 48_000).clip(-1, 1), 48_000)
    return [*FAKE, f"--use-file-for-fake-audio-capture={path}%noloop"]


@browser_test
def test_a_recording_as_the_microphone(folder, heard, tmp_path):
    """Words that are heard in Python are heard in the browser, within a second of their end; in noise none is."""
    model, rng = load_pretrained(), np.random.default_rng(0)
    good = [
        clip for clip in heard if top(model, clip)[0][0] in model.labels[2:] and top(model, clip)[0][1] > 0.9
    ][:4]
    parts = [rng.normal(0, 1e-3, 24_000)]
    for clip in good:
        parts += [clip, rng.normal(0, 1e-3, 24_000)]
    sound = np.concatenate(parts).astype("float32")
    wanted = [(seconds, word) for seconds, word, _ in listen(model, in_chunks(sound))]
    ends = [2.5 + 2.5 * i for i in range(len(good))]
    right = [word for (seconds, word), end in zip(wanted, ends) if end - 1 < seconds < end + 1]
    assert len(good) == 4 and len(right) >= 3, wanted
    with opened(folder, *microphone_of(tmp_path / "words.wav", sound)) as page:
        page.click("#listen")
        page.wait_for_timeout(1_000 * len(sound) / 16_000 + 1_500)
        title, *lines = page.inner_text("#history").splitlines()
        assert page.inner_text("#word") == wanted[-1][1]
        page.click("#listen")
        assert page.inner_text("#listen") == "Listen" and not page.is_visible("#problem")
    assert title == "Microphone"
    found = [(float(line.split()[0]), line.split()[2]) for line in lines[::-1]]
    assert [word for _, word in found] == [word for _, word in wanted]
    assert all(abs(one[0] - other[0]) < 1 for one, other in zip(found, wanted)), (found, wanted)


@browser_test
@pytest.mark.parametrize("rate", [16_000, 44_100, 48_000, 96_000])
def test_resampler(folder, heard, rate):
    """The audio thread's resampler against soxr's, below 7 kHz; what lies above 8 kHz is gone."""
    wanted = np.concatenate([heard[0], heard[1]])
    wanted = soxr.resample(soxr.resample(wanted, 16_000, 14_000), 14_000, 16_000)
    sound = soxr.resample(wanted, 16_000, rate).astype("float32")
    if rate > 16_000:
        sound += 0.3 * np.sin(2 * np.pi * 11_000 / rate * np.arange(len(sound)), dtype="float32")
    run = f"""async ([rate, text]) => {{
        const sound = ({FLOATS})(text), context = new OfflineAudioContext(1, sound.length, rate), chunks = [];
        await context.audioWorklet.addModule("resampler.js");
        const node = new AudioWorkletNode(context, "resampler"), source = context.createBufferSource();
        node.port.onmessage = (event) => chunks.push(...event.data);
        source.buffer = context.createBuffer(1, sound.length, rate);
        source.buffer.copyToChannel(sound, 0);
        source.connect(node).connect(context.destination);
        source.start();
        await context.startRendering();
        await new Promise((resolve) => setTimeout(resolve, 300));
        return chunks;
    }}"""
    with opened(folder) as page:
        found = np.array(page.evaluate(run, [rate, as_text([sound / 2])[0]])) * 2
    wanted = wanted[: len(found)]
    assert len(found) >= 30_000
    error = 10 * np.log10(np.mean((found - wanted)[200:-200] ** 2) / np.mean(wanted**2))
    print(f"{rate} Hz: error {error:.0f} dB")
    assert error < -35


@browser_test
def test_noise_is_no_word(folder, corpus, tmp_path):
    rng = np.random.default_rng(0)
    noise = np.concatenate(
        [
            0.3 * read_clip(path, samples=48_000)
            for path in visible_files(corpus / "train/audio/_background_noise_", ".wav")
            if "white" in path.name or "pink" in path.name
        ]
        + [rng.normal(0, 0.02, 48_000)]
    )
    with opened(folder, *microphone_of(tmp_path / "noise.wav", noise)) as page:
        page.click("#listen")
        page.wait_for_timeout(8_000)
        assert page.inner_text("#history") == ""


@browser_test
def test_one_word(folder, heard, tmp_path):
    model = load_pretrained()
    clip = max(heard, key=lambda clip: top(model, clip)[0][1] * (top(model, clip)[0][0] in model.labels[2:]))
    word = top(model, clip)[0][0]
    sound = np.concatenate([np.zeros(6_000), clip, np.zeros(32_000)]).astype("float32")
    with opened(folder, *microphone_of(tmp_path / "word.wav", sound)) as page:
        page.click("#one")
        shows(page, "#top", "One word")
        assert page.inner_text("#word") == word and page.inner_text("#top").count(",") == 2
        assert page.inner_text("#listen") == "Listen"


TRACKS = """globalThis.tracks = [];
    const media = navigator.mediaDevices, open = media.getUserMedia.bind(media);
    media.getUserMedia = async (wanted) => {
        const stream = await open(wanted);
        tracks.push(...stream.getTracks());
        return stream;
    };"""


@browser_test
def test_one_microphone_at_a_time_and_none_that_stays_open(folder):
    """Whatever is pressed twice, or in between; and a microphone that goes away is noticed."""
    with opened(folder, *FAKE, script=TRACKS) as page:
        twice = "id => { document.getElementById(id).click(); document.getElementById(id).click(); }"
        live = "tracks.filter((each) => each.readyState === 'live').length"
        page.evaluate(twice, "listen")
        shows(page, "#top", "Listening: say yes, no")
        assert page.inner_text("#listen") == "Stop" and page.evaluate(live) == 1
        page.click("#listen")
        assert page.inner_text("#listen") == "Listen" and page.evaluate(live) == 0
        page.evaluate(twice, "one")
        shows(page, "#word", "say it now")
        assert page.evaluate(live) == 1
        page.click("#listen")
        assert page.inner_text("#word") == page.inner_text("#top") == "" and page.evaluate(live) == 0
        page.click("#one")
        shows(page, "#top", "One word: ")
        assert page.inner_text("#word") == max(bars(page))[1] and not page.is_visible("#problem")
        page.click("#listen")
        shows(page, "#listen", "Stop")
        page.evaluate("tracks.at(-1).dispatchEvent(new Event('ended'))")
        shows(page, "#problem", "The microphone is gone")
        assert page.inner_text("#listen") == "Listen" and page.evaluate(live) == 0


@browser_test
def test_a_muted_microphone_is_said(folder):
    muted = "navigator.mediaDevices.getUserMedia = async () => new AudioContext().createMediaStreamDestination().stream"
    with opened(folder, script=muted) as page:
        page.click("#listen")
        shows(page, "#top", "No sound arrives: check the input device")
        page.click("#listen")
        assert page.inner_text("#top") == ""


@browser_test
def test_files_and_examples(folder, heard, tmp_path):
    model = load_pretrained()
    soundfile.write(tmp_path / "clip.flac", heard[0], 16_000)
    shutil.copy(tmp_path / "clip.flac", tmp_path / "second.flac")
    soundfile.write(tmp_path / "long.wav", np.tile(heard[0], 60), 16_000)
    (tmp_path / "text.wav").write_text("this is no sound")
    (tmp_path / "labels.txt").write_text("\n".join([*model.labels[:-1], "vorwärts"]))
    with opened(folder) as page:
        buttons = page.locator("#examples button")
        assert buttons.count() == 6
        buttons.first.click()
        shows(page, "#top", "Spoken")
        assert page.inner_text("#word") == page.locator("figcaption").first.inner_text() == "yes"
        longest = max(bars(page))
        assert longest[1] == "yes" and f"yes {100 * longest[0]:.0f} %" in page.inner_text("#top")
        page.set_input_files("#file", tmp_path / "clip.flac")
        shows(page, "#top", "clip.flac")
        assert page.inner_text("#word") == top(model, heard[0])[0][0]
        page.set_input_files("#file", tmp_path / "text.wav")
        page.wait_for_selector("#problem:visible")
        assert page.inner_text("#problem") == "text.wav: this browser cannot read it as sound"
        page.set_input_files("#file", tmp_path / "long.wav")
        page.set_input_files("#file", tmp_path / "second.flac")
        shows(page, "#top", "second.flac")
        page.wait_for_timeout(300)
        assert page.inner_text("#top").startswith("second.flac") and page.inner_text("#listen") == "Listen"
        page.set_input_files("#file", model.path)
        shows(page, "#problem", "labels.txt together")
        page.set_input_files("#file", tmp_path / "labels.txt")
        shows(page, "#problem", "labels.txt: drop the .tflite")
        page.set_input_files("#file", [model.path, tmp_path / "labels.txt"])
        shows(page, "#bars", "vorwärts")
        assert not page.is_visible("#problem") and page.inner_text("#status").startswith("model.tflite, ")
        assert page.locator("#model option:checked").inner_text() == "model.tflite"


@browser_test
def test_no_permission_and_no_microphone(folder):
    with opened(folder, FAKE[0], "--deny-permission-prompts", permissions=()) as page:
        page.click("#listen")
        page.wait_for_selector("#problem:visible")
        assert "may not use the microphone. Allow it" in page.inner_text("#problem")
        assert page.inner_text("#listen") == "Listen"
    without = (
        "navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('', 'NotFoundError') }"
    )
    with opened(folder, script=without) as page:
        page.click("#one")
        page.wait_for_selector("#problem:visible")
        assert "There is no microphone on this machine" in page.inner_text("#problem")


@browser_test
def test_no_webassembly_no_runtime_no_modules(folder, tmp_path):
    with opened(folder, script="delete globalThis.WebAssembly") as page:
        assert "no WebAssembly" in page.inner_text("#problem")
    shutil.copytree(folder, tmp_path / "without", ignore=shutil.ignore_patterns("wasm"))
    with opened(tmp_path / "without") as page:
        assert "LiteRT could not be loaded" in page.inner_text("#problem")
    with opened(folder, wait="#opened", java_script_enabled=False) as page:
        assert "Start it with make demo" in page.inner_text("#opened")


@browser_test
def test_a_broken_model_is_said_and_the_next_one_works(folder, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    whole, (entry, *_) = contents(folder), contents(folder)["models"]
    content = (folder / entry["file"]).read_bytes()
    files = {
        "text.tflite": b"this is no model",
        "half.tflite": content[: len(content) // 2],
        "spoilt.tflite": content[:8] + bytes(200) + content[208:],
    }
    entries = [{**entry, "file": name, "name": name} for name in files]
    entries += [
        {**entry, "labels": entry["labels"][:5], "name": "five"},
        {**entry, "file": "gone.tflite", "name": "gone"},
        entry,
    ]
    for name, data in files.items():
        (broken / name).write_bytes(data)
    (broken / "contents.json").write_text(json.dumps({**whole, "models": entries}))
    with opened(broken) as page:
        said = {}
        for number, each in enumerate(entries[:-1]):
            page.select_option("#model", index=number)
            page.wait_for_selector("#problem:visible")
            shows(page, "#problem", f"{each['name']}: ")
            said[each["name"]] = page.inner_text("#problem")
        assert "no .tflite file" in said["text.tflite"] and "404" in said["gone"]
        assert "LiteRT cannot run this file" in said["half.tflite"], said
        assert "LiteRT cannot run this file" in said["spoilt.tflite"], said
        assert "labels.txt has 5 names" in said["five"] and "gives float32 [1,12]" in said["five"]
        assert page.inner_text("#status") == "no model yet"
        page.set_input_files("#file", ROOT / "demo/icon.svg")
        shows(page, "#problem", "there is no model yet")
        page.select_option("#model", index=len(entries) - 1)
        shows(page, "#status", "kB")
        assert not page.is_visible("#problem") and page.is_enabled("#listen")
        page.select_option("#model", index=0)
        shows(page, "#problem", "text.tflite: ")
        assert page.eval_on_selector("#model", "each => each.selectedIndex") == len(entries) - 1
        assert page.inner_text("#status").startswith(entry["name"])


@browser_test
def test_sound_stays_here(folder):
    """The page's own policy refuses every other address, whoever asks."""
    with opened(folder) as page:
        assert "LiteRT" in page.inner_text("main")
        tries = """async () => {
            const refused = [], elsewhere = "https://localhost:1/";
            addEventListener("securitypolicyviolation", (event) => refused.push(event.effectiveDirective));
            const socket = () => { new WebSocket("wss://localhost:1") };
            const image = () => { new Image().src = elsewhere };
            for (const send of [() => fetch(elsewhere), () => navigator.sendBeacon(elsewhere, "x"), socket, image]) {
                try { await send(); } catch { }
            }
            await new Promise((resolve) => setTimeout(resolve, 500));
            return refused;
        }"""
        refused = page.evaluate(tries)
    assert refused.count("connect-src") == 3 and "img-src" in refused


@browser_test
def test_memory_does_not_grow(folder, tmp_path):
    """As many looks as in five minutes, one after the other; then JavaScript's heap and WebAssembly's are as large as before."""
    count = """async looks => {
        const { openModel } = await import("./model.js");
        const { models } = await (await fetch("contents.json")).json();
        globalThis.held ??= await openModel(new Uint8Array(await (await fetch(models[0].file)).arrayBuffer()), models[0].labels);
        const sound = new Float32Array(16000);
        for (let i = 0; i < looks; i++) await globalThis.held.predict(sound);
    }"""
    script = """globalThis.memories = [];
        for (const name of ["instantiate", "instantiateStreaming"]) {
            const original = WebAssembly[name];
            WebAssembly[name] = async (...given) => {
                const result = await original.apply(WebAssembly, given);
                const exported = Object.values((result.instance ?? result).exports ?? {});
                memories.push(...exported.filter((each) => each instanceof WebAssembly.Memory));
                return result;
            };
        }"""
    with opened(folder, script=script) as page:
        session = page.context.new_cdp_session(page)

        def sizes():
            session.send("HeapProfiler.collectGarbage")
            heap = session.send("Runtime.getHeapUsage")["usedSize"]
            return heap, page.evaluate("memories.reduce((sum, each) => sum + each.buffer.byteLength, 0)")

        page.evaluate(count, 300)
        before = sizes()
        page.evaluate(count, 3_000)
        after = sizes()
    print(f"JavaScript {before[0]:,} -> {after[0]:,} bytes, WebAssembly {before[1]:,} -> {after[1]:,} bytes")
    assert before[1] > 1e6 and after[1] == before[1] and after[0] < before[0] + 300_000


@browser_test
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phone_keyboard_and_screen_reader(folder, scheme):
    with opened(folder, viewport={"width": 320, "height": 640}, color_scheme=scheme) as page:
        assert page.evaluate("document.scrollingElement.scrollWidth <= innerWidth")
        unnamed = """[...document.querySelectorAll("button, select, input")].filter(
            (each) => !(each.labels?.length || each.textContent.trim() || each.ariaLabel)).length"""
        assert page.evaluate(unnamed) == 0
        reached = set()
        for _ in range(6):
            page.keyboard.press("Tab")
            reached.add(page.evaluate("document.activeElement.id"))
        assert {"listen", "one", "model", "threshold", "file"} <= reached
        page.focus("#threshold")
        page.keyboard.press("ArrowRight")
        assert page.inner_text("#least") == "75 %"
        ratio = """(() => {
            const light = (name) => {  // as WCAG computes it
                const c = document.createElement("canvas").getContext("2d");
                c.fillStyle = getComputedStyle(document.documentElement).getPropertyValue(name);
                c.fillRect(0, 0, 1, 1);
                const linear = (v) => v <= 0.04 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
                const [r, g, b] = [...c.getImageData(0, 0, 1, 1).data].map((v) => linear(v / 255));
                return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
            };
            const ratio = ([a, b]) => Math.max(light(a) / light(b), light(b) / light(a));
            return [["--ink", "--paper"], ["--button", "--accent"], ["--button", "--alert"], ["--ink", "--soft"]].map(ratio);
        })()"""
        assert min(page.evaluate(ratio)) > 4.5
