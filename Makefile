# Every target is a script; what it prints along the way goes to stderr.
.PHONY: help demo demos test bench train clean

help:   ; @sed -n 's/^#? //p' Makefile
#? make demo   sets up, builds, focuses the virtual microscope once    [SEED=7] [OFFSET_UM=-20] [OBJECTIVE=40x0.65]
#? make demos  sets up, builds, focuses on many slides in turn         [N=20] [SEED=1] [OBJECTIVE=40x0.65]
#? make test   sets up, builds, runs every test
#? make bench  measures speed and accuracy of this machine           [SLIDES=15] [MODEL=models/hhnet_fast.onnx] [SOAK_MIN=2]
#? make train  renders slides and trains a network on them              [PRESET=small|full] [NETWORK=hhnet_fast|hhnet] [OBJECTIVE=40x0.65] [DATA=folder PIXEL_SIZE_UM=0.086]
#? make clean  removes what was built; scripts/clean --all also removes the private ROS 2

# Given on the command line of make or in the environment, where the scripts read them.
export N SEED OFFSET_UM OBJECTIVE SLIDES MODEL SOAK_MIN PRESET NETWORK DATA PIXEL_SIZE_UM FLIP_SIGN HOLD_OUT

demo:   ; @scripts/setup && scripts/build && scripts/run python scripts/demo.py
demos:  ; @scripts/setup && scripts/build && scripts/run python scripts/demos.py
test:   ; @scripts/test
bench:  ; @scripts/setup && scripts/build && scripts/run python scripts/bench.py
train:  ; @scripts/train
clean:  ; @scripts/clean
