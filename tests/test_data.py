"""The digits: the embedded ones, the downloaded ones however the download goes, and the order of the batches."""

import dataclasses
import gc
import gzip
import hashlib
import multiprocessing
import os
import socket
import statistics
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from torchvision import datasets as torchvision_datasets

from harness import data
from harness.config import DataConfig
from harness.data import Digits
from harness.datasets import DATASETS
from harness.errors import DataError

CPU = torch.device("cpu")
DOWNLOADED = tuple(name for name, data_set in DATASETS.items() if data_set.torchvision)
NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
ARCHIVES = tuple(f"{name}.gz" for name in NAMES)
FULL_ROOT = "INITBENCH_MNIST_ROOT"
SIZES = {name: (data_set.train_images, data_set.test_images) for name, data_set in DATASETS.items()}


def splits(digits: Digits) -> dict[str, torch.Tensor]:
    """Images and labels of the splits that are there."""
    return {name: values for name, values in vars(digits).items() if values is not None}


@pytest.fixture(autouse=True)
def _nothing_remembered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test reads its own files, and reaches this machine's servers directly."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    data._downloaded.cache_clear()
    yield
    data._downloaded.cache_clear()


def embedded() -> Digits:
    return data.load(DataConfig())


def same(digits: Digits, expected: Digits) -> bool:
    return all(
        torch.equal(getattr(digits, name), getattr(expected, name)) and getattr(digits, name).dtype == values.dtype
        for name, values in splits(expected).items()
    )


# The embedded digits


def test_embedded_shapes_and_types() -> None:
    digits = embedded()
    train, test = SIZES["mnist5k"]
    assert (digits.train_images.shape, digits.test_images.shape) == ((train, 28, 28), (test, 28, 28))
    assert (digits.train_labels.shape, digits.test_labels.shape) == ((train,), (test,))
    assert {digits.train_images.dtype, digits.test_images.dtype} == {torch.uint8}
    assert {digits.train_labels.dtype, digits.test_labels.dtype} == {torch.int64}


def test_embedded_digits_are_the_articles() -> None:
    """The first 50 training images and the 1,000 test images have the article's label counts and moments."""
    digits = embedded()
    assert digits.train_labels[:50].bincount().tolist() == [4, 7, 4, 7, 4, 4, 5, 4, 4, 7]
    assert digits.test_labels[:1000].bincount().tolist() == [85, 126, 116, 107, 110, 87, 87, 99, 89, 94]
    x = digits.train_images[:50].double()
    assert x.mean().item() == pytest.approx(31.131, abs=5e-4)
    assert x.std().item() == pytest.approx(75.993, abs=5e-4)
    assert x.square().mean().item() == pytest.approx(6743.94, abs=5e-3)


def test_embedded_file_names_its_authors_and_licence() -> None:
    """The attribution is in the footer, so that it goes wherever the file goes."""
    with pq.ParquetFile(data._EMBEDDED) as file:
        attribution = file.schema_arrow.metadata[b"attribution"].decode()
    for words in ("Yann LeCun", "Corinna Cortes", "Christopher J.C. Burges", "Creative Commons", "unchanged"):
        assert words in attribution


def test_embedded_digits_load_in_a_tenth_of_a_second() -> None:
    times_s = []
    for _ in range(7):
        data._embedded.cache_clear()
        start_s = time.perf_counter()
        embedded()
        times_s.append(time.perf_counter() - start_s)
    assert statistics.median(times_s) < 0.1


def test_embedded_digits_are_read_once() -> None:
    assert embedded() is embedded()


# Scaling


@pytest.mark.parametrize(
    ("name", "scaling", "scale"),
    [
        ("mnist5k", "raw", lambda pixel: pixel),
        ("mnist5k", "unit", lambda pixel: pixel / 255),
        ("mnist5k", "standardised", lambda pixel: (pixel / 255 - 0.1307) / 0.3081),
        ("mnist", "standardised", lambda pixel: (pixel / 255 - 0.1307) / 0.3081),
        ("fashion_mnist", "standardised", lambda pixel: (pixel / 255 - 0.2860) / 0.3530),
        ("kmnist", "standardised", lambda pixel: (pixel / 255 - 0.1918) / 0.3483),
    ],
    ids=["raw", "unit", "standardised", "mnist", "fashion_mnist", "kmnist"],
)
def test_scaling_is_the_formula(name: str, scaling: str, scale: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Against the same formula in float64, to float32's precision; ``raw`` is exact."""
    digits, tolerance = embedded(), 0 if scaling == "raw" else 1e-6
    scaled = data.to_device(digits, DataConfig(name=name, scaling=scaling), CPU)
    for pixels, scaled_pixels in ((digits.train_images, scaled.train_images), (digits.test_images, scaled.test_images)):
        assert scaled_pixels.dtype == torch.float32
        assert scaled_pixels.shape == (len(pixels), 1, 28, 28)
        torch.testing.assert_close(
            scaled_pixels.double(), scale(pixels.double()).unsqueeze(1), rtol=tolerance, atol=tolerance
        )
    assert torch.equal(scaled.train_labels, digits.train_labels)
    assert torch.equal(scaled.test_labels, digits.test_labels)


def test_standardised_digits_have_mean_zero_and_std_one() -> None:
    """To 0.01: the constants are those of all 60,000 images, the embedded ones are 5,000 of them."""
    x_NCHW = data.to_device(embedded(), DataConfig(scaling="standardised"), CPU).train_images
    assert x_NCHW.mean().item() == pytest.approx(0, abs=0.01)
    assert x_NCHW.std().item() == pytest.approx(1, abs=0.01)


def test_scaling_leaves_the_loaded_images_alone() -> None:
    before = embedded().train_images.clone()
    data.to_device(embedded(), DataConfig(scaling="standardised"), CPU).train_images.zero_()
    assert torch.equal(embedded().train_images, before)


# Batches


def batches(kind: str, *, steps: int = 100, batch_size: int = 50, seed: int = 0, name: str = "mnist5k") -> torch.Tensor:
    drawn = data.batch_indices(DataConfig(name=name, batches=kind), steps=steps, batch_size=batch_size, seed=seed)
    assert drawn is not None
    return drawn


def test_fixed_batches_have_no_order() -> None:
    assert data.batch_indices(DataConfig(batches="fixed"), steps=3, batch_size=50, seed=0) is None


@pytest.mark.parametrize("kind", ["random", "epochs"])
def test_seed_alone_decides_the_batches(kind: str) -> None:
    """The same seed gives the same batches whatever torch drew before, another seed gives others."""
    torch.manual_seed(1)
    first = batches(kind, seed=7)
    torch.manual_seed(2)
    assert torch.equal(batches(kind, seed=7), first)
    assert (batches(kind, seed=8) != first).float().mean() > 0.9


@pytest.mark.parametrize("kind", ["random", "epochs"])
def test_batches_are_drawn_on_the_cpu_beside_torchs_own_stream(kind: str) -> None:
    """A GPU sees the CPU's batches, because they are made before any device comes in."""
    before = torch.get_rng_state()
    drawn = batches(kind, steps=101, batch_size=70)
    assert (drawn.device, drawn.dtype, drawn.shape) == (CPU, torch.int64, (101, 70))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", SIZES)
def test_random_batches_repeat_images_and_reach_all(name: str) -> None:
    """40 draws for each image: that a given one is never drawn has probability exp(-40)."""
    images = SIZES[name][0]
    drawn = batches("random", steps=40, batch_size=images, name=name)
    assert len(drawn[0].unique()) < 0.7 * images
    assert torch.equal(drawn.unique(), torch.arange(images))


@pytest.mark.parametrize("batch_size", [50, 70, 4999, 5000], ids=lambda size: f"batch of {size}")
def test_epochs_are_permutations_end_to_end(batch_size: int) -> None:
    """Every pass holds each image once, in an order of its own, also where a batch straddles two passes."""
    images, steps = SIZES["mnist5k"][0], -(-12_345 // batch_size)
    drawn = batches("epochs", steps=steps, batch_size=batch_size)
    assert drawn.shape == (steps, batch_size)
    first, second, *_, last = drawn.flatten().split(images)
    for whole in (first, second):
        assert torch.equal(whole.sort().values, torch.arange(images))
        assert not torch.equal(whole, torch.arange(images))
    assert not torch.equal(first, second)
    assert len(last.unique()) == len(last)


@pytest.mark.parametrize(("kind", "count"), [("fixed", 50), ("random", 1000), ("epochs", 1000)])
def test_training_accuracy_is_taken_on_fixed_images(kind: str, count: int) -> None:
    assert data.train_eval_count(DataConfig(batches=kind), 50) == count


def test_test_images_before_training_are_drawn_with_replacement_from_the_seed() -> None:
    drawn = data.random_test_indices(DataConfig(), 0)
    assert drawn.shape == (1000,)
    assert 0 <= drawn.min() < drawn.max() < SIZES["mnist5k"][1]
    assert len(drawn.unique()) < 700
    assert torch.equal(data.random_test_indices(DataConfig(), 0), drawn)
    assert not torch.equal(data.random_test_indices(DataConfig(), 1), drawn)


# A release of each data set with ten images, and servers to download it from


@pytest.fixture(params=DOWNLOADED)
def name(request: pytest.FixtureRequest) -> str:
    """Each data set that is downloaded."""
    return request.param


def few_digits() -> Digits:
    digits = embedded()
    return Digits(digits.train_images[:6], digits.train_labels[:6], digits.test_images[:4], digits.test_labels[:4])


def idx(values: torch.Tensor) -> bytes:
    """Bytes in MNIST's own format: zero, zero, 8 for uint8, the number of dimensions, each of them, the values."""
    header = struct.pack(f">4B{values.dim()}I", 0, 0, 8, values.dim(), *values.shape)
    return header + values.to(torch.uint8).numpy().tobytes()


def unpacked() -> dict[str, bytes]:
    return dict(zip(NAMES, map(idx, splits(few_digits()).values()), strict=True))


def archives() -> dict[str, bytes]:
    return {f"{name}.gz": gzip.compress(content, mtime=0) for name, content in unpacked().items()}


def both() -> dict[str, bytes]:
    return unpacked() | archives()


def is_known_by_archives(name: str) -> bool:
    return any(file.endswith(".gz") for file in DATASETS[name].sha256)


def release(name: str, patch: pytest.MonkeyPatch) -> None:
    """Make torchvision and the harness take the small release for the true one."""
    md5 = [(file, hashlib.md5(content, usedforsecurity=False).hexdigest()) for file, content in archives().items()]
    sha256 = {file: hashlib.sha256(content).hexdigest() for file, content in both().items()}
    small = dataclasses.replace(DATASETS[name], sha256={file: sha256[file] for file in DATASETS[name].sha256})
    patch.setattr(getattr(torchvision_datasets, str(small.torchvision)), "resources", md5)
    patch.setitem(DATASETS, name, small)


@pytest.fixture
def _small_release(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    release(name, monkeypatch)


class Request(BaseHTTPRequestHandler):
    """One request to a :class:`Mirror`."""

    server: "Mirror"

    def do_GET(self) -> None:
        """Note what is asked for, and answer as the mirror does."""
        name = self.path.removeprefix("/mnist/")
        self.server.requests += 1
        # torchvision asks for each file twice: first, with this header, to see where the address leads
        if "Method" not in self.headers:
            self.server.downloads[name] += 1
        self.server.answer(self, archives()[name])

    def send(self, body: bytes, *, length: int) -> None:
        """Send a file that is said to have ``length`` bytes."""
        self.send_response(200)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


Answer = Callable[[Request, bytes], None]


class Mirror(ThreadingHTTPServer):
    """A server on this machine that has the small release, and gives it out well or badly."""

    # closing waits for every answer
    daemon_threads = False

    def __init__(self, answer: Answer) -> None:
        super().__init__(("127.0.0.1", 0), Request)
        self.answer = answer
        self.closing = threading.Event()
        self.requests = 0
        self.downloads: Counter[str] = Counter()

    @property
    def url(self) -> str:
        """The folder of the files, as it goes into ``data.mirrors``."""
        return f"http://127.0.0.1:{self.server_port}/mnist"


def good(request: Request, body: bytes) -> None:
    request.send(body, length=len(body))


def slow(request: Request, body: bytes) -> None:
    time.sleep(0.05)
    good(request, body)


def unavailable(request: Request, _body: bytes) -> None:
    request.send_error(503)


def corrupted(request: Request, body: bytes) -> None:
    good(request, flipped(body))


def truncated(request: Request, body: bytes) -> None:
    request.send(body[: len(body) // 2], length=len(body))


def web_page(request: Request, _body: bytes) -> None:
    good(request, b"<html>Please log in to this network</html>")


def not_http(request: Request, _body: bytes) -> None:
    request.wfile.write(b"220 ready\r\n")


def hung_up(_request: Request, _body: bytes) -> None:
    """Close the connection without a word."""


def silent(request: Request, _body: bytes) -> None:
    request.server.closing.wait()


def stuck(request: Request, body: bytes) -> None:
    truncated(request, body)
    request.wfile.flush()
    request.server.closing.wait()


# torchvision leaves a refused answer, with its socket, in a reference cycle; `mirror` collects it
left_open = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
BAD = [pytest.param(unavailable, marks=left_open), corrupted, truncated, web_page, not_http, hung_up, silent, stuck]


@pytest.fixture(params=BAD, ids=lambda answer: answer.__name__)
def bad(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Answer:
    """How a mirror can fail; an answer is waited for half a second."""
    monkeypatch.setattr(data, "_DOWNLOAD_TIMEOUT_S", 0.5)
    return request.param


def flipped(content: bytes) -> bytes:
    """The same number of bytes, with the last one wrong."""
    return content[:-1] + bytes([content[-1] ^ 1])


def halved(content: bytes) -> bytes:
    return content[: len(content) // 2]


@contextmanager
def serving(answer: Answer) -> Iterator[Mirror]:
    with Mirror(answer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.closing.set()
            server.shutdown()
            thread.join()


Start = Callable[[Answer], Mirror]


@pytest.fixture
def mirror(_small_release: None) -> Iterator[Start]:
    """``mirror(answer)``: a server that answers so until the test is over."""
    answers = []

    def start(answer: Answer) -> Mirror:
        answers.append(answer)
        return servers.enter_context(serving(answer))

    with ExitStack() as servers:
        yield start
    if unavailable in answers:
        gc.collect()


@pytest.fixture
def nowhere(_small_release: None) -> Iterator[str]:
    """The address of a port on which nobody listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}/mnist"


At = Callable[..., DataConfig]
Put = Callable[[dict[str, bytes]], Path]


@pytest.fixture
def at(name: str, tmp_path: Path, _small_release: None) -> At:
    """``at(*mirrors)``: the config of the small release below the test's folder, or below ``root``."""
    return lambda *mirrors, root=tmp_path: DataConfig(name=name, root=str(root), mirrors=list(mirrors))


def raw_folder(config: DataConfig) -> Path:
    return Path(config.root).expanduser() / str(DATASETS[config.name].torchvision) / "raw"


@pytest.fixture
def put(at: At) -> Put:
    """``put(files)``: the folder, with these files in it."""

    def fill(files: dict[str, bytes]) -> Path:
        raw = raw_folder(at())
        raw.mkdir(parents=True)
        for file, content in files.items():
            (raw / file).write_bytes(content)
        return raw

    return fill


def refusal(config: DataConfig) -> str:
    """The one line that says why the data cannot be had and what to do."""
    with pytest.raises(DataError) as caught:
        data.load(config)
    message = str(caught.value)
    assert "\n" not in message
    for words in (f"data={config.name}: ", "data=mnist5k", "data.mirrors=[", str(raw_folder(config))):
        assert words in message
    return message


# Downloads


@pytest.mark.parametrize("name", DOWNLOADED)
def test_every_file_torchvision_downloads_has_a_checksum(name: str) -> None:
    source = getattr(torchvision_datasets, str(DATASETS[name].torchvision))
    assert [file for file, _ in source.resources] == list(ARCHIVES)
    assert [file.removesuffix(".gz") for file in DATASETS[name].sha256] == list(NAMES)
    assert all(len(bytes.fromhex(digest)) == 32 for digest in DATASETS[name].sha256.values())


@pytest.mark.parametrize("ending", ["", "/"], ids=["no slash", "slash"])
def test_good_mirror_gives_the_digits(mirror: Start, at: At, ending: str) -> None:
    server = mirror(good)
    loaded = data.load(at(server.url + ending))
    assert same(loaded, few_digits())
    assert data.load(at(server.url + ending)) is loaded
    assert server.downloads == Counter(ARCHIVES)


def test_bad_mirror_is_passed_over(mirror: Start, at: At, bad: Answer) -> None:
    """The digits come whole from the second mirror, whatever is wrong with the first."""
    first, second = mirror(bad), mirror(good)
    assert same(data.load(at(first.url, second.url)), few_digits())
    assert first.requests > 0
    assert second.downloads == Counter(ARCHIVES)


def test_bad_mirrors_alone_are_a_data_error(mirror: Start, at: At, bad: Answer) -> None:
    """The error comes within seconds and names each mirror, and the next attempt starts afresh."""
    first, second, start_s = mirror(bad), mirror(bad), time.perf_counter()
    message = refusal(at(first.url, second.url))
    assert time.perf_counter() - start_s < 5
    assert first.url in message
    assert second.url in message
    assert same(data.load(at(mirror(good).url)), few_digits())


def test_no_network_is_a_data_error_at_once(at: At, nowhere: str) -> None:
    start_s = time.perf_counter()
    assert "Connection refused" in refusal(at(nowhere))
    assert time.perf_counter() - start_s < 2


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("127.0.0.1/mnist", "not an http:// or https:// address"),
        ("file:///mnist", "not an http:// or https:// address"),
        ("http://", "not an http:// or https:// address"),
        ("http://127.0.0.1:mnist", "nonnumeric port"),
        ("http://[mnist", "Invalid IPv6"),
    ],
)
def test_mirror_that_is_no_web_address_is_a_data_error(at: At, address: str, words: str) -> None:
    assert words in refusal(at(address))


@pytest.mark.parametrize(
    "answer", [good, pytest.param(unavailable, marks=left_open)], ids=lambda answer: answer.__name__
)
def test_other_connections_keep_their_timeout(mirror: Start, at: At, answer: Answer) -> None:
    """A download leaves the process's default socket timeout as it found it."""
    socket.setdefaulttimeout(17)
    try:
        data.load(at(mirror(answer).url))
    except DataError:
        assert answer is unavailable
    finally:
        after = socket.getdefaulttimeout()
        socket.setdefaulttimeout(None)
    assert after == 17


# Files that are there already


@pytest.mark.parametrize("files", [both, archives], ids=["both", "archives"])
def test_files_that_are_there_are_not_asked_for(
    mirror: Start, at: At, put: Put, files: Callable[[], dict[str, bytes]]
) -> None:
    """Archives put in the folder by hand are enough."""
    put(files())
    server = mirror(good)
    assert same(data.load(at(server.url)), few_digits())
    assert server.requests == 0
    assert same(data.load(at("no address")), few_digits())


def test_unpacked_files_alone_are_enough_where_their_checksums_are_known(
    mirror: Start, at: At, put: Put, nowhere: str, name: str
) -> None:
    """Elsewhere nothing says that they are the true ones, so that the archives are asked for; they stay as they are."""
    raw = put(unpacked())
    if is_known_by_archives(name):
        refusal(at(nowhere))
        assert {file: (raw / file).read_bytes() for file in NAMES} == unpacked()
    server = mirror(good)
    assert same(data.load(at(server.url)), few_digits())
    assert server.downloads == (Counter(ARCHIVES) if is_known_by_archives(name) else Counter())


def test_reading_a_complete_folder_writes_nothing(at: At, put: Put) -> None:
    """Not even a lock that goes again, which would show in a folder's time: the folder may be read-only."""
    raw = put(both())
    places = (raw, raw.parent, raw.parent.parent)
    before = [(place.stat().st_mtime_ns, sorted(place.iterdir())) for place in places]
    assert same(data.load(at("no address")), few_digits())
    assert [(place.stat().st_mtime_ns, sorted(place.iterdir())) for place in places] == before


Damage = Callable[[bytes], bytes]


@pytest.mark.parametrize("damage", [None, halved, flipped], ids=["sound", "cut short", "one byte wrong"])
def test_archives_in_a_folder_that_cannot_be_written_are_read_all_the_same(
    at: At, put: Put, damage: Damage | None, nowhere: str
) -> None:
    """A folder that many share is often read-only; what is damaged in it is refused with the reason."""
    files = archives()
    raw = put(files | ({ARCHIVES[1]: damage(files[ARCHIVES[1]])} if damage else {}))
    # nobody can make a lock there, not even root
    (raw.parent / ".lock").mkdir()
    if damage:
        assert ".lock" in refusal(at(nowhere))
    else:
        assert same(data.load(at(nowhere)), few_digits())
    assert sorted(path.name for path in raw.iterdir()) == sorted(ARCHIVES)


def test_folder_may_be_below_the_users_home(at: At, put: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    put(both())
    assert same(data.load(at("no address", root=Path("~") / tmp_path.name)), few_digits())


def test_only_missing_files_are_asked_for(mirror: Start, at: At, put: Put) -> None:
    missing = ARCHIVES[2]
    put({file: content for file, content in archives().items() if file != missing})
    server = mirror(good)
    assert same(data.load(at(server.url)), few_digits())
    assert server.downloads == Counter([missing])


damages = pytest.mark.parametrize("damage", [flipped, halved], ids=["one byte wrong", "cut short"])
each_file = pytest.mark.parametrize("file", NAMES)


@damages
@each_file
def test_damaged_file_is_made_again_from_its_archive(at: At, put: Put, nowhere: str, file: str, damage: Damage) -> None:
    """A file that changed on the disk is noticed, and needs no network while the archive is whole."""
    raw = put(both())
    (raw / file).write_bytes(damage(unpacked()[file]))
    assert same(data.load(at(nowhere)), few_digits())
    assert (raw / file).read_bytes() == unpacked()[file]


@damages
def test_damaged_file_and_archive_are_downloaded_again(mirror: Start, at: At, put: Put, damage: Damage) -> None:
    file, files = NAMES[0], both()
    put(files | {file: damage(files[file]), f"{file}.gz": damage(files[f"{file}.gz"])})
    server = mirror(good)
    assert same(data.load(at(server.url)), few_digits())
    assert server.downloads == Counter([f"{file}.gz"])


@damages
@each_file
def test_damaged_file_that_cannot_be_had_again_is_a_data_error(
    at: At, put: Put, nowhere: str, file: str, damage: Damage
) -> None:
    """Damaged digits are never trained on, at the second attempt no more than at the first."""
    intact = {other: content for other, content in both().items() if other not in (file, f"{file}.gz")}
    put(intact | {file: damage(unpacked()[file])})
    for _attempt in range(2):
        refusal(at(nowhere))


def test_a_forged_pair_of_file_and_archive_is_not_taken(at: At, put: Put, nowhere: str) -> None:
    """An archive that holds exactly the unpacked file says nothing unless the archive itself has the known sum."""
    forged = flipped(unpacked()[NAMES[1]])
    put(both() | {NAMES[1]: forged, ARCHIVES[1]: gzip.compress(forged, mtime=0)})
    refusal(at(nowhere))


def test_file_with_another_checksum_than_ours_is_a_data_error(
    mirror: Start, at: At, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An archive that torchvision accepts must also be, or unpack to, the bytes that we expect."""
    known = DATASETS[name]
    file = list(known.sha256)[1]
    monkeypatch.setitem(DATASETS, name, dataclasses.replace(known, sha256={**known.sha256, file: "0" * 64}))
    assert f"wrong checksum: {file})" in refusal(at(mirror(good).url))


@pytest.mark.parametrize("obstacle", [".", "SET", "SET/raw", f"SET/raw/{ARCHIVES[0]}/x", f"SET/raw/{NAMES[0]}/x"])
def test_folder_that_cannot_be_written_is_a_data_error(
    mirror: Start, at: At, name: str, tmp_path: Path, obstacle: str
) -> None:
    """A file where a folder must be, or the other way round; the message says which."""
    blocked = tmp_path / "root" / obstacle.replace("SET", str(DATASETS[name].torchvision))
    blocked.parent.mkdir(parents=True, exist_ok=True)
    blocked.write_text("in the way")
    message = refusal(at(mirror(good).url, root=tmp_path / "root"))
    assert str(tmp_path / "root") in message.split("Use data=mnist5k")[0]


# Two processes at once


def meet(name: str, barrier: Barrier) -> None:
    """In a new process: wait until the other is ready, too."""
    release(name, pytest.MonkeyPatch())
    barrier.wait(60)


def load_elsewhere(config: DataConfig) -> tuple[int, list[list[int]]]:
    """Which process loaded them, and what it got."""
    return os.getpid(), as_lists(data.load(config))


def as_lists(digits: Digits) -> list[list[int]]:
    return [values.tolist() for values in splits(digits).values()]


def test_two_processes_at_once_download_each_file_once(mirror: Start, at: At, name: str) -> None:
    """The second finds the first one's files, whole."""
    server, spawn = mirror(slow), multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, spawn, initializer=meet, initargs=(name, spawn.Barrier(2))) as pool:
        processes, loaded = zip(*pool.map(load_elsewhere, [at(server.url)] * 2), strict=True)
    assert len(set(processes)) == 2
    assert list(loaded) == [as_lists(few_digits())] * 2
    assert server.downloads == Counter(ARCHIVES)


# The true data sets, where their files are given


def full(name: str) -> Digits:
    root = os.environ.get(FULL_ROOT)
    if root is None or not raw_folder(DataConfig(name=name, root=root)).is_dir():
        pytest.skip(f"set {FULL_ROOT} to a folder that holds {DATASETS[name].torchvision}/raw")
    return data.load(DataConfig(name=name, root=root))


def test_embedded_digits_are_the_first_of_mnist() -> None:
    whole, (train, test) = full("mnist"), SIZES["mnist5k"]
    cut = whole.train_images[:train], whole.train_labels[:train], whole.test_images[:test], whole.test_labels[:test]
    assert same(Digits(*cut), embedded())


@pytest.mark.parametrize("name", DOWNLOADED)
def test_sizes_and_statistics_are_those_of_the_files(name: str) -> None:
    """The published mean and standard deviation have four decimals, and were rounded or cut."""
    whole = full(name)
    assert (len(whole.train_images), len(whole.test_images)) == SIZES[name]
    assert (len(whole.train_labels), len(whole.test_labels)) == SIZES[name]
    assert whole.train_labels.unique().tolist() == list(range(10))
    pixels = whole.train_images.double() / 255
    assert pixels.mean().item() == pytest.approx(DATASETS[name].mean, abs=1e-4)
    assert pixels.std(correction=0).item() == pytest.approx(DATASETS[name].std, abs=1e-4)
