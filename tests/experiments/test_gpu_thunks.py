"""Loops, read from a list of thunks as XLA writes it."""

from gpu_thunks import Loop, loops_of

TEXT = """\
000: kCommandBuffer [source | next=392]
    001: kCustomKernel [source] fusion grid: [1, 1, 1]
    018: kWhile        [prev=017 (1)]
condition:
        019: kCustomKernel [source | sink] wrapped_compare
      body:
        020: kCustomKernel [source] fusion
        021: kCopy         [source] kCopy
        022: kWhile        [prev=021 (1)]
condition:
            023: kCustomKernel [source | sink] wrapped_compare
            024: kCustomKernel [source | sink] wrapped_and
          body:
            025: kCustomKernel [source] fusion
        026: kCustomKernel [source] fusion
    027: kCustomKernel [source] fusion
028: kWhile         [prev=000 (1)]
condition:
    029: kCustomKernel [source | sink] compare
  body:
    000: kCommandBuffer [source | sink]
        030: kCustomKernel       [source] fusion
        031: kDynamicSliceFusion [prev=030 (1)] params=1, results=1
            032: kCopy [source | sink] kCopy
"""


def test_loops_with_their_kernels_and_graphs():
    assert loops_of(TEXT.splitlines()) == [
        Loop(0, True, kernels=3, condition=1, innermost=False),
        Loop(1, True, kernels=1, condition=2),
        Loop(0, False, kernels=2, condition=1),
    ]
