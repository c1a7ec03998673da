"""What runs while an image is built."""

import json

from images import resolve, slim


def write(path, text=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_slim_takes_out_what_nothing_loads_and_nothing_else(tmp_path, capsys):
    kept = ["pkg/a.py", "pkg/testing/a.py", "pyarrow/lib.so", "pyarrow/libarrow_python.so.2600", "other/include/a.h", "botocore/data/endpoints.json", "botocore/data/s3/m.json"]  # fmt: skip # noqa: E501
    gone = ["pkg/tests/a.py", "pkg/a.pyi", "pkg/lib/a.a", "numpy/f2py/a.py", "pyarrow/include/a.h", "pyarrow/libarrow_flight.so.2600", "pyarrow/libarrow_python.so", "pyarrow/libarrow_python.so.2600.1.0", "botocore/data/ec2/m.json"]  # fmt: skip # noqa: E501
    for name in kept + gone:
        write(tmp_path / name)
    slim.main(tmp_path)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()) == sorted(kept)
    assert "MiB taken out" in capsys.readouterr().out


def test_resolve_pins_everything_and_builds_what_comes_as_source(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(
        tmp_path / "pyproject.toml",
        '[project]\ndependencies = ["b>=1"]\n[project.optional-dependencies]\nx = ["a"]\ny = ["z"]\n',
    )
    asked = []

    def pip(*arguments):
        asked.append(arguments)
        found = [("b", "2", "https://i/b-2-py3-none-any.whl"), ("A", "1", "https://i/a-1.tar.gz")]
        install = [{"metadata": {"name": n, "version": v}, "download_info": {"url": url}} for n, v, url in found]
        write(tmp_path / "report.json", json.dumps({"install": install}))

    monkeypatch.setattr(resolve, "pip", pip)
    resolve.main(["x"])
    assert (tmp_path / "requirements.txt").read_text() == "A==1\nb==2\n"
    assert [each[-2:] for each in asked[:1]] == [("b>=1", "a")]
    assert "constraints.txt" in asked[0]
    assert asked[1:] == [("wheel", "--no-deps", "--wheel-dir", "wheels", "A==1")]
