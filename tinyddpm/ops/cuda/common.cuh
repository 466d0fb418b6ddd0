// Definitions for all kernels: storage of numbers, loads and stores of packs, and sums over a block.
//
// Kernels are plain CUDA C++ without standard headers, so that NVRTC, nvcc and, with the tests' stand-in for threads
// and blocks, any C++ compiler can compile them. Their arrays are contiguous, and all shared memory is dynamic.
// Arithmetic, statistics and parameters are float32, also where activations are stored as bfloat16.

#pragma once

#ifdef SCALAR_BF16
struct scalar { unsigned short bits; };  // bfloat16: the upper half of a float32

__device__ inline float load(scalar value) { return __uint_as_float((unsigned)value.bits << 16); }

#ifndef CUDA_SHIM  // the tests' stand-in defines its own
// The bits of the nearest bfloat16, ties to even; 0x7fff for NaN. PTX ISA 8.5, section 9.7.9.21 (cvt).
__device__ inline unsigned short bfloat16_bits(float value) {
    unsigned short bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}
#endif

__device__ inline scalar store(float value) { return {bfloat16_bits(value)}; }
#else
typedef float scalar;

__device__ inline float load(scalar value) { return value; }
__device__ inline scalar store(float value) { return value; }
#endif

extern __shared__ __align__(16) float shared[];

// Adjacent numbers that are read and written together; their address is a multiple of their total size.
template <int width> struct alignas(width * sizeof(scalar)) Pack { scalar at[width]; };

// PACK: numbers in 16 bytes, the most that a thread reads or writes at once. ROWS: rows per thread, as in geometry.py.
enum : int { PACK = 16 / sizeof(scalar), ROWS = 4 };

// Whether arrays are aligned for packs; a view of some channels of a single pixel may not be.
template <int width, class... Arrays>
__device__ bool in_packs(Arrays... arrays) {
    return (... && ((size_t)arrays % sizeof(Pack<width>) == 0));
}

// The pack is passed by value: through a reference, the compiler would load its numbers one by one.
template <int width>
__device__ void unpack(Pack<width> pack, float* values) {
    for (int lane = 0; lane < width; lane++) values[lane] = load(pack.at[lane]);
}

template <int width>
__device__ void load_pack(const scalar* from, float* values) {
    unpack<width>(*(const Pack<width>*)from, values);
}

template <int width>
__device__ Pack<width> packed(const float* values) {
    Pack<width> pack;
    for (int lane = 0; lane < width; lane++) pack.at[lane] = store(values[lane]);
    return pack;
}

template <int width>
__device__ void store_pack(scalar* to, const float* values) { *(Pack<width>*)to = packed<width>(values); }

// Calls write(row, c, read(row, c)) for each strip of the block's rows. Threads are (strip, row); a strip is `lanes`
// adjacent channels of `width`. A thread reads all its rows before it writes any, without a branch between the reads,
// so that it waits for memory once; in place of rows past the last, it reads the last again.
template <int lanes, class Read, class Write>
__device__ void by_rows(int rows, int width, Read read, Write write) {
    unsigned first = blockIdx.x * ROWS * blockDim.y + threadIdx.y, last = rows - 1;
    for (int c = lanes * threadIdx.x; c < width; c += lanes * blockDim.x) {
        Pack<lanes> held[ROWS];
        for (int k = 0; k < ROWS; k++) held[k] = read(min(first + k * blockDim.y, last), c);
        for (int k = 0; k < ROWS; k++) {
            unsigned row = first + k * blockDim.y;
            if (row <= last) write(row, c, held[k]);
        }
    }
}

// e^x, and sigma(x) = 1 / (1 + e^-x), which is correctly 0 where e^-x overflows. For bfloat16, of 8 bits, the
// hardware's approximations of 2^x and 1/x suffice, which are accurate to about 22 bits.
#if defined(SCALAR_BF16) && !defined(CUDA_SHIM)
__device__ inline float exponential(float x) { return __expf(x); }
__device__ inline float sigmoid(float x) {
    float result;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(1.0f + exponential(-x)));
    return result;
}
#else
__device__ inline float exponential(float x) { return expf(x); }
__device__ inline float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }
#endif

// The index of this thread in the grid, for kernels with one element per thread.
__device__ inline long long element() { return (long long)blockIdx.x * blockDim.x + threadIdx.x; }

// y = value(arrays...), elementwise. A thread computes PACK elements, which it loads together if they are aligned.
template <class Value, class... Arrays>
__device__ void map_elements(scalar* y, long long size, Value value, Arrays... arrays) {
    long long first = PACK * element(), end = first + PACK;
    if (end <= size && in_packs<PACK>(y, arrays...)) {
        auto of_packs = [&](auto... packs) {
            Pack<PACK> result;
            for (int lane = 0; lane < PACK; lane++) result.at[lane] = store(value(load(packs.at[lane])...));
            return result;
        };
        *(Pack<PACK>*)(y + first) = of_packs(*(const Pack<PACK>*)(arrays + first)...);
    } else {
        for (long long i = first; i < size && i < end; i++) y[i] = store(value(load(arrays[i])...));
    }
}

// Returns the sum of `value` over the block, to every thread. `sums` has one number per thread; the number of threads
// is a power of two. No barrier follows the read of the result in sums[0], so a kernel may call this only once.
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

// Adds all rows of sums, (blockDim.y, width), to its first row; blockDim.y is a power of two.
__device__ inline void sum_columns(float* sums, int width) {
    int thread = threadIdx.y * blockDim.x + threadIdx.x, threads = blockDim.x * blockDim.y;
    __syncthreads();
    for (int rows = blockDim.y; rows > 1;) {
        int parts = min(rows, 8);
        rows /= parts;
        for (int i = thread; i < rows * width; i += threads) {
            float sum = sums[i];
            for (int part = 1; part < parts; part++) sum += sums[part * rows * width + i];
            sums[i] = sum;
        }
        __syncthreads();
    }
}

// Computes `count` sums over rows for each column of threads, of the numbers that value(row, found) writes to `found`.
// Results are in the first row of sums, (blockDim.y, blockDim.x, count). A thread reads ROWS rows at once, as in
// by_rows; rows past the last add nothing.
template <int count, class Value>
__device__ void channel_sums(Value value, float* sums, int rows) {
    float sum[count] = {};
    for (int first = threadIdx.y; first < rows; first += ROWS * blockDim.y) {
        float found[ROWS][count];
        for (int k = 0; k < ROWS; k++) value(min(first + k * (int)blockDim.y, rows - 1), found[k]);
        for (int k = 0; k < ROWS; k++) {
            bool there = first + k * blockDim.y < rows;
            for (int i = 0; i < count; i++) sum[i] += there ? found[k][i] : 0;
        }
    }
    for (int i = 0; i < count; i++) sums[(threadIdx.y * blockDim.x + threadIdx.x) * count + i] = sum[i];
    sum_columns(sums, blockDim.x * count);
}
