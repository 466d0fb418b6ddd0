// Philox 4x32-10 (tinyddpm/backend/philox.py), keyed as tinyddpm/backend/random.py tells, and x_t made with its normals.
//
// One thread a counter, which gives four elements of one sample: blocks (counters, samples). The step lies in device
// memory, so that a captured graph can be launched again for the next one.
#include "common.cuh"

struct Words { unsigned word[4]; };

__device__ Words philox(unsigned c0, unsigned c1, unsigned c2, unsigned c3, unsigned k0, unsigned k1) {
    for (int round = 0; round < 10; round++) {
        unsigned long long p0 = 0xD2511F53ull * c0, p1 = 0xCD9E8D57ull * c2;
        c0 = (unsigned)(p1 >> 32) ^ c1 ^ k0;
        c1 = (unsigned)p1;
        c2 = (unsigned)(p0 >> 32) ^ c3 ^ k1;
        c3 = (unsigned)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return {{c0, c1, c2, c3}};
}

// The words of this thread's counter; `stream` is purpose + 256 layer.
__device__ Words draw(const long long* samples, const long long* step, unsigned stream, unsigned k0, unsigned k1) {
    return philox((unsigned)element(), (unsigned)samples[blockIdx.y], (unsigned)*step, stream, k0, k1);
}

// Box and Muller in float64, rounded once: the numbers that NumPy draws.
__device__ void normals(Words bits, float* z) {
    for (int pair = 0; pair < 2; pair++) {
        double radius = sqrt(-2.0 * log((bits.word[2 * pair] + 0.5) / 4294967296.0));
        double angle = bits.word[2 * pair + 1] * (6.283185307179586 / 4294967296.0);
        z[2 * pair] = (float)(radius * cos(angle));
        z[2 * pair + 1] = (float)(radius * sin(angle));
    }
}

// words[sample, i], uniform over [0, 2^32), (samples, size).
extern "C" __global__ void philox_bits(
    long long* words, const long long* samples, const long long* step, unsigned stream, unsigned k0, unsigned k1,
    long long size
) {
    Words drawn = draw(samples, step, stream, k0, k1);
    for (int lane = 0; lane < 4; lane++) {
        long long i = 4 * element() + lane;
        if (i < size) words[blockIdx.y * size + i] = drawn.word[lane];
    }
}

// eps[sample, i] ~ N(0, 1), (samples, size).
extern "C" __global__ void philox_normal(
    float* eps, const long long* samples, const long long* step, unsigned stream, unsigned k0, unsigned k1,
    long long size
) {
    float z[4];
    normals(draw(samples, step, stream, k0, k1), z);
    for (int lane = 0; lane < 4; lane++) {
        long long i = 4 * element() + lane;
        if (i < size) eps[blockIdx.y * size + i] = z[lane];
    }
}

// eps as above, and x_t = signal[t] x_0 + noise[t] eps (DDPM eq. 4, GaussianProcess.q_sample); t is (samples).
extern "C" __global__ void philox_q_sample(
    const float* x_0, const long long* t, const float* signal, const float* noise, scalar* x_t, float* eps,
    const long long* samples, const long long* step, unsigned stream, unsigned k0, unsigned k1, long long size
) {
    float z[4], keep = signal[t[blockIdx.y]], add = noise[t[blockIdx.y]];
    normals(draw(samples, step, stream, k0, k1), z);
    for (int lane = 0; lane < 4; lane++) {
        long long i = 4 * element() + lane;
        if (i >= size) continue;
        eps[blockIdx.y * size + i] = z[lane];
        x_t[blockIdx.y * size + i] = store(keep * x_0[blockIdx.y * size + i] + add * z[lane]);
    }
}
