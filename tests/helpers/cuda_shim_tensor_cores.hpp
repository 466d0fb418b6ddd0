// The stand-in's part of tinyddpm/ops/cuda/tensor_cores.cuh: what the instructions do, by the tables of the PTX ISA that
// say which lane holds which number. A warp's lanes bring what they hold, then each works out what it gets.
#pragma once

extern float shared[] __align__(16);

namespace shim {

struct Brought { unsigned a[4], b[2]; const void* row; };
static Brought brought[1024];  // by thread

// What the lanes of this warp bring, when all have.
static const Brought* exchange(const Brought& own) {
    brought[current] = own;
    wait_at(warp_barriers[current / 32]);
    return brought + current / 32 * 32;
}

static void go_on() { wait_at(warp_barriers[current / 32]); }

static bool aligned(const void* address, int size = 16) {
    if ((size_t)address % size == 0) return true;
    fault = size == 16 ? "takes 16 bytes at an address that is no multiple of 16" : "takes bytes at an address out of line";
    return false;
}

static float upper(unsigned half) { return __uint_as_float(half << 16); }
static float bf16(unsigned word, int which) { return upper(which ? word >> 16 : word & 0xffff); }
static float read_as_tf32(unsigned word) { return __uint_as_float(word & 0xffffe000); }

// c += a b with c's lane (row % 8) * 4 + column / 2 and number row / 8 * 2 + column % 2.
template <class A, class B> void mma(float* c, int depth, A a, B b) {
    int lane = current % 32;
    for (int i = 0; i < 4; i++) {
        int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        for (int k = 0; k < depth; k++) c[i] += a(row, k) * b(k, column);
    }
}

static void load_matrices(unsigned* words, const void* row, bool transposed) {
    const Brought* lanes = exchange({{}, {}, aligned(row) ? row : shared});
    int lane = current % 32;
    for (int matrix = 0; matrix < 4; matrix++) {
        unsigned pair[2];
        for (int i = 0; i < 2; i++) {
            int line = lane / 4, column = lane % 4 * 2 + i;
            if (transposed) std::swap(line, column);
            pair[i] = ((const uint16_t*)lanes[matrix * 8 + line].row)[column];
        }
        words[matrix] = pair[0] | pair[1] << 16;
    }
    go_on();
}

}  // namespace shim

static inline void mma_bf16(float* c, const unsigned* a, unsigned b_0, unsigned b_1) {
    const shim::Brought* lanes = shim::exchange({{a[0], a[1], a[2], a[3]}, {b_0, b_1}, nullptr});
    shim::mma(
        c, 16, [&](int row, int k) { return shim::bf16(lanes[row % 8 * 4 + k % 8 / 2].a[row / 8 + k / 8 * 2], k % 2); },
        [&](int k, int column) { return shim::bf16(lanes[column * 4 + k % 8 / 2].b[k / 8], k % 2); }
    );
    shim::go_on();
}

static inline void mma_tf32(float* c, const unsigned* a, unsigned b_0, unsigned b_1) {
    const shim::Brought* lanes = shim::exchange({{a[0], a[1], a[2], a[3]}, {b_0, b_1}, nullptr});
    shim::mma(
        c, 8, [&](int row, int k) { return shim::read_as_tf32(lanes[row % 8 * 4 + k % 4].a[row / 8 + k / 4 * 2]); },
        [&](int k, int column) { return shim::read_as_tf32(lanes[column * 4 + k % 4].b[k / 4]); }
    );
    shim::go_on();
}

static inline unsigned tf32(float value) {
    return value != value ? 0x7fffffff : (__float_as_uint(value) + 0x1000) & 0xffffe000;
}

static inline void load_matrices(unsigned* words, const void* row) { shim::load_matrices(words, row, false); }
static inline void load_matrices_transposed(unsigned* words, const void* row) { shim::load_matrices(words, row, true); }

// Copies are done when they are waited for and not before: who does not wait reads what was there.
static inline void begin_copy(void* to, const void* from, int bytes) {
    shim::Thread& thread = shim::threads[shim::current];
    if (shim::aligned(to) && shim::aligned(from)) thread.copies.push_back({to, from, 16, bytes, thread.groups});
}

template <int size> void begin_copy(void* to, const void* from) {
    shim::Thread& thread = shim::threads[shim::current];
    if (shim::aligned(to, size) && shim::aligned(from, size)) {
        thread.copies.push_back({to, from, size, size, thread.groups});
    }
}

static inline void end_group() { shim::threads[shim::current].groups++; }

template <int newest> void wait_for_groups() {
    shim::Thread& thread = shim::threads[shim::current];
    auto due = [&](const shim::Copy& copy) { return copy.group < thread.groups - newest; };
    for (const shim::Copy& copy : thread.copies) {
        if (!due(copy)) continue;
        std::memset(copy.to, 0, copy.size);
        std::memcpy(copy.to, copy.from, copy.bytes);
    }
    thread.copies.erase(std::remove_if(thread.copies.begin(), thread.copies.end(), due), thread.copies.end());
}
