"""What goes in: however it is nested, nothing is lost, and the caller's own tensors stay his."""

import pytest
import torch
from torch import nn

from detcam.cam.network_inputs import NetworkInputs, unwrapped
from detcam.errors import InputError, ShapeError

RGB, FREQUENCY, IDS = torch.ones(3, 3, 8, 6), torch.zeros(3, 7, 4, 3), torch.arange(3)


def called_with(inputs):
    return NetworkInputs.of(inputs).called(lambda *args, **kwargs: (args, kwargs))


def test_a_tensor_is_the_one_argument():
    assert called_with(RGB) == ((RGB,), {})


@pytest.mark.parametrize("kind", [tuple, list])
def test_a_sequence_is_the_positional_arguments(kind):
    assert called_with(kind([RGB, FREQUENCY])) == ((RGB, FREQUENCY), {})


def test_a_dict_is_the_keyword_arguments():
    assert called_with({"rgb": RGB, "scale": 2}) == ((), {"rgb": RGB, "scale": 2})


def test_both_kinds_of_arguments_go_together():
    given = NetworkInputs((RGB,), {"frequency": FREQUENCY})
    assert called_with(given) == ((RGB,), {"frequency": FREQUENCY})


@pytest.mark.parametrize(("inputs", "said"), [("cat.jpg", "got a str"), (None, "got a NoneType")])
def test_what_is_no_input_says_what_it_is(inputs, said):
    with pytest.raises(InputError, match=said):
        NetworkInputs.of(inputs)


@pytest.mark.parametrize("inputs", [(), {}, {"path": "cat.jpg"}, [1, 2]])
def test_inputs_without_a_tensor_are_an_error(inputs):
    with pytest.raises(InputError, match="no tensor among the inputs"):
        NetworkInputs.of(inputs)


def test_the_first_picture_among_the_inputs_says_how_many_and_how_large():
    given = NetworkInputs.of({"ids": IDS, "pair": [RGB, FREQUENCY]})
    assert (given.batch, given.input_size) == (3, (8, 6))
    volume = NetworkInputs.of((torch.zeros(2, 1, 4, 5, 6),))
    assert (volume.batch, volume.input_size) == (2, (4, 5, 6))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (torch.zeros(3, 8, 6), r"got \(3, 8, 6\) torch.float32: a single picture needs a batch dimension"),
        (torch.zeros(1, 3, 8, 6).byte(), r"got \(1, 3, 8, 6\) torch.uint8: whole numbers have no gradient"),
    ],
)
def test_a_single_or_integer_picture_is_no_batch_of_pictures(wrong, said):
    with pytest.raises(ShapeError, match=said):
        NetworkInputs.of(wrong).prepared(nn.Identity())


def test_a_batch_of_no_pictures_is_an_error():
    with pytest.raises(ShapeError, match=r"no pictures in the batch: \(0, 3, 8, 6\)"):
        NetworkInputs.of(RGB[:0]).prepared(nn.Identity())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_numbers_become_float32_and_integers_stay(dtype):
    ready = NetworkInputs.of({"rgb": RGB.to(dtype), "ids": IDS}).prepared(nn.Linear(1, 1))
    assert [one.dtype for one in ready.tensors] == [torch.float32, torch.int64]


def test_a_network_of_float64_is_given_float64():
    ready = NetworkInputs.of(RGB).prepared(nn.Linear(1, 1).double())
    assert ready.tensors[0].dtype == torch.float64


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.enable_grad])
def test_prepared_tensors_are_ordinary_leaves(mode):
    with mode():
        mine = torch.ones(1, 3, 4, 4, requires_grad=True) * 2
        (ready,) = NetworkInputs.of(mine).prepared(nn.Identity()).tensors
    assert not ready.is_inference()
    assert ready.is_leaf
    assert not ready.requires_grad
    assert torch.equal(ready, mine.detach().clone())


def test_the_arguments_of_one_picture_keep_what_is_for_all():
    anchors = torch.arange(5)
    one = NetworkInputs.of((RGB * torch.arange(3)[:, None, None, None], IDS, anchors, torch.tensor(2.0))).one(
        1
    )
    assert torch.equal(one.args[0], torch.ones(1, 3, 8, 6))
    assert one.args[1].tolist() == [1]
    assert one.args[2] is anchors
    assert one.args[3] == 2


class DistributedDataParallel(nn.Module):
    """As torch's, which needs a process group."""

    def __init__(self, module):
        super().__init__()
        self.module = module


def test_wrappers_are_taken_off_however_many_there_are():
    network = nn.Sequential(nn.Conv2d(3, 4, 3))
    compiled = torch.compile(network, backend="eager")
    for wrapped in (nn.DataParallel(network), compiled, nn.DataParallel(compiled),
                    DistributedDataParallel(nn.DataParallel(network))):  # fmt: skip
        assert unwrapped(wrapped) is network
    assert unwrapped(network) is network


def test_a_network_that_calls_a_part_of_it_module_is_no_wrapper():
    network = nn.Sequential()
    network.module = nn.Conv2d(3, 4, 3)
    assert unwrapped(network) is network


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning", "ignore:`torch.jit:DeprecationWarning")
def test_torchscript_is_refused_and_not_taken_for_a_network_without_layers():
    traced = torch.jit.trace(nn.Conv2d(3, 2, 3), torch.zeros(1, 3, 8, 6))
    for one in (traced, nn.DataParallel(traced)):
        with pytest.raises(InputError, match="TorchScript, scripted or traced"):
            unwrapped(one)
