"""New images: documents of both forms, deterministic, readable by the store."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rootless.errors import UsageError
from rootless.image.assemble import Form, config_document, moment, new_image
from rootless.image.model import Layer
from rootless.image.packing import LayerPacker
from rootless.image.store import Store
from rootless.oci.documents import ExecutionConfig, History, ImageConfig, parse_config
from rootless.oci.reference import Reference
from tests.kit.images import file, tar

CONFIG = ImageConfig(
    architecture="amd64",
    os="linux",
    execution=ExecutionConfig(cmd=("sh",), exposed_ports={"80/tcp": {}}, labels={"empty": ""}, env=("A=",)),
)


def made(store: Store, form: Form, reference: Reference | None = None) -> tuple[str, Layer]:
    with store.pulling():
        with store.workspace() as space, LayerPacker(store, space) as packer:
            packer.write(tar([file("a", b"x")]))
            layer = packer.finish()
        image = new_image(store, [layer], CONFIG, [History(created_by="test")], reference, form=form)
    return image.id, layer


@pytest.mark.parametrize("form", list(Form))
def test_an_image_is_found_again(tmp_path: Path, form: Form) -> None:
    store = Store(str(tmp_path))
    store.prepare()
    reference = Reference.parse("localhost/new:1")
    id, layer = made(store, form, reference)
    image = store.resolve("localhost/new:1")
    assert image.id == id == made(store, form, reference)[0]
    assert [each.diff_id for each in image.layers] == [layer.diff_id]
    assert image.config.config.labels == {"empty": ""}
    assert ("docker" in image.manifest.media_type) is (form is Form.DOCKER)
    assert ("docker" in image.layers[0].media_type) is (form is Form.DOCKER)


def test_an_image_without_a_name_stays(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.prepare()
    id, layer = made(store, Form.OCI)
    store.collect()
    assert store.resolve(id).names == ()
    assert store.blobs.has(layer.blob, layer.size)


def test_members_that_say_nothing_are_left_out() -> None:
    document = json.loads(config_document(CONFIG))
    assert document == {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": ["sh"], "ExposedPorts": {"80/tcp": {}}, "Labels": {"empty": ""}, "Env": ["A="]},
        "rootfs": {"type": "layers", "diff_ids": []},
    }
    assert parse_config(config_document(CONFIG)).config == CONFIG.config


def test_the_moment() -> None:
    assert moment({"SOURCE_DATE_EPOCH": "0"}) == "1970-01-01T00:00:00Z"
    assert moment({}).endswith("Z") and len(moment({})) == 30
    for text in ("now", "-1", "1" * 12, "1.5", "\u0663"):
        with pytest.raises(UsageError):
            moment({"SOURCE_DATE_EPOCH": text})
