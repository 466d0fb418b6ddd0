// What all kernels share: how numbers are stored, and sums over a block.
//
// Kernels are plain CUDA C++ without headers, so that NVRTC, nvcc and, with the tests' stand-in for threads and blocks,
// any C++ compiler take them. They ask for what they work on to be contiguous. Shared memory is always the block's
// dynamic one. Arithmetic, statistics and parameters are float32, whatever activations are stored as.

#pragma once

#ifdef SCALAR_BF16
struct scalar { unsigned short bits; };  // bfloat16: the upper half of a float32

__device__ inline float load(scalar value) { return __uint_as_float((unsigned)value.bits << 16); }

__device__ inline scalar store(float value) {  // rounded to nearest, ties to even
    unsigned bits = __float_as_uint(value);
    scalar result;
    if (value != value) result.bits = 0x7fff;
    else result.bits = (unsigned short)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
    return result;
}
#else
typedef float scalar;

__device__ inline float load(scalar value) { return value; }
__device__ inline scalar store(float value) { return value; }
#endif

extern __shared__ float shared[];

// sigma(x) = 1 / (1 + e^-x); where e^-x overflows it is 0, as it should be.
__device__ inline float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// The number of this thread among all, where each does one element.
__device__ inline long long element() { return (long long)blockIdx.x * blockDim.x + threadIdx.x; }

// The sum of `value` over the block, in every thread; `sums` has room for one number a thread, a power of two of them,
// and keeps the result: once a kernel.
template <class Number>
__device__ Number block_sum(Number value, Number* sums) {
    int thread = threadIdx.x;
    sums[thread] = value;
    __syncthreads();
    for (int half = blockDim.x / 2; half > 0; half /= 2) {
        if (thread < half) sums[thread] += sums[thread + half];
        __syncthreads();
    }
    return sums[0];
}
