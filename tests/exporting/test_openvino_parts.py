"""What stands around a denoiser, as optimum-intel reads it: names of inputs and outputs, and the same numbers."""

import copy
import json

import pytest
import torch

import tempoquant
from conditional_models import large_text_pipeline, text_pipeline
from tempoquant.errors import InputError
from tiny import small_recipe, unet_pipeline

openvino = pytest.importorskip("openvino")


# The larger one has all that the smaller one has, in twos.
@pytest.fixture(scope="module", params=[pytest.param(text_pipeline, marks=pytest.mark.slow), large_text_pipeline])
def case(request, tmp_path_factory):
    pipe = request.param(tmp_path_factory.mktemp("tokenizer"))
    pipe.vae.to(torch.bfloat16)
    made = tempoquant.quantize(pipe, small_recipe("rtn"), conditioning={"prompt": ["a", "b"]})
    return pipe, tempoquant.export(made, tmp_path_factory.mktemp("whole") / "out", whole=True)


def opened(folder, part):
    return openvino.Core().compile_model(
        folder / part / "openvino_model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )


def names(ports):
    return [port.get_any_name() for port in ports]


def test_text_encoders_give_what_pipelines_read(case):
    pipe, folder = case
    tokens = torch.tensor([[16, 0, 1, 17, 17, 17, 17, 17]])
    for part in ("text_encoder", "text_encoder_2"):
        encoder = getattr(pipe, part, None)
        if encoder is None:
            assert not (folder / part).exists()
            continue
        model = opened(folder, part)
        wanted = encoder(tokens, output_hidden_states=True)
        first = ["text_embeds", "last_hidden_state"] if part.endswith("2") else ["last_hidden_state", "pooler_output"]
        layers = [f"hidden_states.{i}" for i in range(len(wanted.hidden_states))]
        assert names(model.inputs) == ["input_ids"]
        assert names(model.outputs) == [*first, *layers]
        found = model({"input_ids": tokens.numpy()})
        for name, value in zip(names(model.outputs), [*(wanted[n] for n in first), *wanted.hidden_states], strict=True):
            torch.testing.assert_close(torch.from_numpy(found[name]), value.detach(), rtol=1e-3, atol=1e-4)


def test_the_autoencoder_goes_both_ways(case):
    pipe, folder = case
    decoder, encoder = opened(folder, "vae_decoder"), opened(folder, "vae_encoder")
    assert (names(decoder.inputs), names(decoder.outputs)) == (["latent_sample"], ["sample"])
    assert (names(encoder.inputs), names(encoder.outputs)) == (["sample"], ["latent_parameters"])
    latents, pixels = torch.randn(1, 4, 16, 16), torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        vae = copy.deepcopy(pipe.vae).float()
        drawn, parameters = vae.decode(latents).sample, vae.encode(pixels).latent_dist.parameters
    torch.testing.assert_close(
        torch.from_numpy(decoder({"latent_sample": latents.numpy()})[0]), drawn, rtol=1e-3, atol=1e-3
    )
    torch.testing.assert_close(
        torch.from_numpy(encoder({"sample": pixels.numpy()})[0]), parameters, rtol=1e-3, atol=1e-3
    )
    for part in ("vae_decoder", "vae_encoder"):
        config = json.loads((folder / part / "config.json").read_text())
        assert config["block_out_channels"] == list(pipe.vae.config.block_out_channels)


def test_the_denoisers_inputs_are_called_as_pipelines_call_them(case):
    pipe, folder = case
    wanted = ["sample", "timestep", "encoder_hidden_states"]
    large = ["text_embeds", "time_ids"] if hasattr(pipe, "text_encoder_2") else []
    model = opened(folder, "unet")
    assert sorted(names(model.inputs)) == sorted(wanted + large)
    assert names(model.outputs) == ["out_sample"]


def test_the_pipelines_own_parts_stay_in_their_precision(case):
    pipe, folder = case
    assert pipe.vae.dtype == torch.bfloat16 and pipe.text_encoder.dtype == torch.float32
    assert opened(folder, "vae_decoder").inputs[0].element_type == openvino.Type.f32


def test_what_optimum_has_no_class_for_is_refused(tmp_path):
    made = tempoquant.quantize(unet_pipeline(), small_recipe("rtn"))
    with pytest.raises(InputError, match="a DDIMPipeline cannot be exported whole"):
        tempoquant.export(made, tmp_path / "out", whole=True)
    with pytest.raises(InputError, match="optimum-intel reads OpenVINO, not onnx"):
        tempoquant.export(made, tmp_path / "out", "onnx", whole=True)
    assert not (tmp_path / "out").exists()
