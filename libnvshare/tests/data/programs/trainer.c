// A library that is linked with NCCL, as PyTorch's are.
struct unique_id {
    char internal[128];
};

int ncclCommInitRank(void **comm, int ranks, struct unique_id id, int rank);

int join(int ranks, int rank) {
    struct unique_id id = {{0}};
    void *comm;
    id.internal[127] = 7;
    return ncclCommInitRank(&comm, ranks, id, rank);
}
